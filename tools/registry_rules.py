"""What ComfyUI's registry asks of a pack, read from the archive that would be published.

Of its standards (docs.comfy.org/registry/standards): no eval or exec, no package installed while it runs, no code fetched, no
obfuscated code. Of its specification: the fields of pyproject.toml, with their limits. And ours: what runs is in it, what only
develops is not.
"""

from __future__ import annotations

import ast
import re
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from .environment import ROOT

REFUSED_PYTHON = re.compile(r"\bsubprocess\b|importlib\.import_module|\bsqlite3\b|aiohttp\.ClientSession|\bos\.system\b"
                            r"|pickle\.loads?\b|\b(eval|exec)\(|pip install|weights_only\s*=\s*False")  # fmt: skip
REFUSED_SCRIPT = re.compile(r"\.bind\(|\.send\(|\.connect\(|\beval\(|\.innerHTML\s*\+?=|document\.write\(")
BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {"subprocess", "pip", "ensurepip", "marshal", "dill", "ctypes", "sqlite3", "zipimport", "pty"}
RUNS_ON_INSTALL = ("install.py", "requirements.txt", "setup.py")  # ComfyUI brings all that the pack needs
KINDS = {".py", ".js", ".json", ".md", ".html", ".css", ".svg", ".jpg", ".png", ".toml", ".txt", ".safetensors", ""}
NEEDED = ("__init__.py", "nodes/", "trainers/", "rewards/", "toy/", "toy/weights/", "web/", "web/docs/", "workflows/",
          "subgraphs/", "locales/", "headless.py", "ray_run/", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml")  # fmt: skip
DEVELOPMENT = ("tests/", "benchmarks/", "docs/", "tools/", ".ci/", ".github/", "develop.py", "CONTRIBUTING.md", "ROADMAP.md")
LONGEST_LINE, LONGEST_WORD = 300, 200  # of code that a person reads
LARGEST = 20_000_000
NAME = re.compile(r"(?!.*[-_.]{2})[A-Za-z][A-Za-z0-9._-]{0,98}")
VERSION = re.compile(r"\d+\.\d+\.\d+")
PICTURE = re.compile(r"https://.+/raw/[^/]+/(.+\.(?:svg|png|jpg|gif))")
PLACEHOLDER = "OWNER"


def faults(archive: Path) -> list[str]:
    """Every rule that the archive breaks, in words; none: it may be published."""
    with zipfile.ZipFile(archive) as packed:
        names = [name for name in packed.namelist() if not name.endswith("/")]
        texts = {name: packed.read(name).decode("utf-8", "replace") for name in names if name.endswith((".py", ".js"))}
        project = tomllib.loads(packed.read("pyproject.toml").decode("utf-8")) if "pyproject.toml" in names else {}
    found = [*of_files(names), *of_project(project)]
    found += [f"{archive.name} has {archive.stat().st_size:,} bytes"] if archive.stat().st_size > LARGEST else []
    for name, text in texts.items():
        found += [
            f"{name}:{line} {what}" for line, what in (of_python(text) if name.endswith(".py") else of_script(text, name))
        ]
    return found


def of_files(names: list[str]) -> Iterator[str]:
    for needed in NEEDED:
        if not any(name == needed or (needed.endswith("/") and name.startswith(needed)) for name in names):
            yield f"{needed} is missing"
    for name in names:
        if name.startswith(DEVELOPMENT) or (name.startswith(".") and "/" not in name):
            yield f"{name} is for developers alone"
        if Path(name).name in RUNS_ON_INSTALL:
            yield f"{name} would run or install something at the installation"
        if Path(name).suffix.lower() not in KINDS or "__pycache__" in name or ".ruff_cache" in name:
            yield f"{name} is of a kind that nobody can read, or a tool's own"
    folded = [name.casefold() for name in names]
    yield from (f"{name} differs from another file in case alone" for name in names if folded.count(name.casefold()) > 1)


def of_project(settings: dict) -> Iterator[str]:
    project, comfy = settings.get("project", {}), settings.get("tool", {}).get("comfy", {})
    if not NAME.fullmatch(project.get("name", "")) or "comfyui" in project.get("name", "").lower():
        yield "pyproject.toml: name is no registry id (letters first, no ComfyUI in it)"
    if not VERSION.fullmatch(project.get("version", "")):
        yield "pyproject.toml: version is not X.Y.Z"
    for place, fields in ((project, ("description", "license", "requires-python")),
                          (project.get("urls", {}), ("Repository", "Documentation", "Bug Tracker")),
                          (comfy, ("PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"))):  # fmt: skip
        yield from (f"pyproject.toml: {field} is missing" for field in fields if not place.get(field))
    for field, fits in (("Icon", icon_fits), ("Banner", banner_fits)):
        match = PICTURE.fullmatch(comfy.get(field, ""))
        if not match or not (ROOT / match[1]).is_file():
            yield f"pyproject.toml: {field} does not lead to a picture of this repository"
        elif not fits(ROOT / match[1]):
            yield f"pyproject.toml: {field} has not the size that the registry asks for"


def size(picture: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(picture) as image:
        return image.size


def icon_fits(picture: Path) -> bool:
    width, height = size(picture)
    return width == height <= 400


def banner_fits(picture: Path) -> bool:
    width, height = size(picture)
    return width * 9 == height * 21


def of_python(text: str) -> Iterator[tuple[int, str]]:
    for item in ast.walk(ast.parse(text)):
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id in BUILTINS:
            yield item.lineno, f"calls {item.func.id}"
        elif isinstance(item, ast.Import):
            yield from ((item.lineno, f"imports {one.name}") for one in item.names if one.name.split(".")[0] in MODULES)
        elif isinstance(item, ast.ImportFrom) and not item.level and (item.module or "").split(".")[0] in MODULES:
            yield item.lineno, f"imports {item.module}"
    for number, line in enumerate(text.splitlines(), 1):
        if match := REFUSED_PYTHON.search(line):
            yield number, f"has {match[0]}"
        if re.search(r";\s*\w+", re.sub(r"#.*|\"[^\"]*\"|'[^']*'", "", line)) and many(text, number):
            yield number, "has several statements in a line"
    yield from unreadable(text)


def many(text: str, number: int) -> bool:
    """Whether two statements begin in this line, one behind the other."""
    lines = [item.lineno for item in ast.walk(ast.parse(text)) if isinstance(item, ast.stmt)]
    return lines.count(number) > 1


def of_script(text: str, name: str) -> Iterator[tuple[int, str]]:
    if "/lib/" in name:  # other people's, whole and readable; their licence lies beside them
        yield from unreadable(text)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if match := REFUSED_SCRIPT.search(line) or re.search(r"new Function\(|\batob\(|import\(\s*[\"']https?:", line):
            yield number, f"has {match[0]}"
    yield from unreadable(text)


def unreadable(text: str) -> Iterator[tuple[int, str]]:
    """Lines that no person has written: obfuscated or packed code."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LONGEST_LINE:
            yield number, f"is {len(line)} characters long"
        if re.search(rf"[A-Za-z0-9+/=]{{{LONGEST_WORD},}}|(\\x[0-9a-fA-F]{{2}}){{8,}}", line):
            yield number, "has data in the place of words"


def placeholders() -> list[str]:
    """Lines that the owner has to fill in before anything is published."""
    found = []
    for name in ("pyproject.toml", "README.md"):
        lines = enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        found += [f"{name}:{number}" for number, line in lines if re.search(rf"/{PLACEHOLDER}/|\"{PLACEHOLDER}\"", line)]
    return found
