"""The documentation as a site: python develop.py site [folder], build/site where none is named.

The pages are those of the repository, node pages among them, in the folders that they lie in, so that their links lead where
they lead on GitHub; a link that leads nowhere fails. Nothing on the site is fetched from elsewhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .environment import ROOT, Environment
from .overlay import laid

PINS = ("mkdocs==1.6.1", "mkdocs-material==9.6.23", "mkdocs-material-extensions==1.3.1", "mkdocs-get-deps==0.2.0",
        "pymdown-extensions==10.16.1", "markdown==3.9", "babel==2.17.0", "backrefs==5.9", "colorama==0.4.6", "paginate==0.5.7",
        "click==8.3.0", "ghp-import==2.1.0", "python-dateutil==2.9.0.post0", "six==1.17.0", "mergedeep==1.3.4",
        "pyyaml-env-tag==1.1", "watchdog==6.0.0", "pathspec==0.12.1", "platformdirs==4.5.0")  # fmt: skip
USE = ("models", "recipes", "rewards", "page", "alarms", "interchange", "lora_kinds", "patches")
SHOWN = ("proof", "memory", "bench", "gpu", "scale", "reliability", "real_size")
BUILD = ("architecture", "other_packs", "security")
LINK = re.compile(r"\]\((?:<([^>]+)>|([^)\s]+))\)")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def builder(env: Environment) -> Path:
    """The folder to put on PYTHONPATH for mkdocs."""
    return laid(env, "site", "the documentation's builder", PINS, lambda step: PINS)


def pages() -> list[Path]:
    """Relative to the repository."""
    return [
        path.relative_to(ROOT)
        for pattern in ("*.md", "docs/*.md", "web/docs/*.md", "[!.]*/README.md")
        for path in sorted(ROOT.glob(pattern))
    ]


def linked(page: Path) -> Iterator[Path]:
    """Files of the repository, other than pages, that a page shows or leads to."""
    for match in LINK.finditer(CODE.sub("", (ROOT / page).read_text(encoding="utf-8"))):
        target = (match[1] or match[2]).split("#")[0]
        path = (ROOT / page).parent / target
        if target and "://" not in target and path.suffix != ".md" and path.is_file():
            yield path.resolve().relative_to(ROOT)


def collect(folder: Path) -> None:
    """The pages and what they need, in the folders that they have in the repository."""
    for path in {*pages(), *(each for page in pages() for each in linked(page))}:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)


def title(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ").strip()


def settings(pages_at: Path, site: Path) -> dict:
    def docs(names) -> list[str]:
        return [f"docs/{name}.md" for name in names]

    rooms = [page.as_posix() for page in pages() if page.name == "README.md" and len(page.parts) == 2]
    nodes = sorted(
        ({title(page): page.as_posix()} for page in pages() if page.parts[0] == "web"), key=lambda each: [*each][0].lower()
    )
    return {
        "site_name": "ComfyUI-PostTrain",
        "docs_dir": str(pages_at),
        "site_dir": str(site),
        "use_directory_urls": False,  # opens from a disk, too
        "theme": {"name": "material", "font": False, "features": ["navigation.tabs", "navigation.top", "search.highlight"],
                  "palette": [{"media": "(prefers-color-scheme: light)", "scheme": "default", "primary": "teal"},
                              {"media": "(prefers-color-scheme: dark)", "scheme": "slate", "primary": "teal"}]},
        "plugins": ["search"],
        "markdown_extensions": ["tables", "toc", "pymdownx.superfences"],
        "validation": {"omitted_files": "warn", "links": dict.fromkeys(("not_found", "anchors", "absolute_links",
                                                                        "unrecognized_links"), "warn")},
        "nav": [{"Start": "README.md"}, {"Use": docs(USE)}, {"Nodes": nodes}, {"What was shown": docs(SHOWN)},
                {"Build": [*docs(BUILD), *rooms, "CONTRIBUTING.md", "ROADMAP.md", "CHANGELOG.md"]}],
    }  # fmt: skip


def build(site: Path) -> int:
    """mkdocs' exit code: not 0 where a link leads nowhere, or a page is in no menu."""
    import yaml

    with tempfile.TemporaryDirectory() as place:
        collect(Path(place, "pages"))
        file = Path(place, "mkdocs.yml")
        file.write_text(yaml.safe_dump(settings(Path(place, "pages"), site), sort_keys=False), encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--config-file", str(file)]
        ).returncode


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").absolute()))
