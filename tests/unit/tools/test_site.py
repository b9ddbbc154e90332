"""The documentation as a site: every page is there, no link leads nowhere, nothing comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from posttrain.tools import site, tree

ROOT = Path(__file__).resolve().parents[3]


def built(root: Path, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "develop.py", "site", str(folder)], cwd=root, capture_output=True, text=True, timeout=300
    )


def test_it_is_built_and_a_link_that_leads_nowhere_is_found(tmp_path):
    done = built(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.relative_to(tmp_path / "site").with_suffix(".md") for path in (tmp_path / "site").rglob("*.html")}
    pages = {Path("index.md") if page == Path("README.md") else page for page in site.pages()}
    assert not {page for page in pages if page.name != "README.md"} - found and len(found) > 100
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]+(?:src|href)="?([^" >]+)', page.read_text("utf-8"))
        assert not [address for address in fetched if "//" in address], page
    copy = tmp_path / "ComfyUI-PostTrain"
    tree.copy(copy)
    with (copy / "docs" / "page.md").open("a", encoding="utf-8") as file:
        file.write("\n[one more](nowhere.md), [and](../README.md#no-such-heading)\n")
    done = built(copy, tmp_path / "again")
    assert done.returncode != 0 and "nowhere.md" in done.stderr + done.stdout and "no-such-heading" in done.stderr + done.stdout
