"""Finds a Chromium for the page tests, or installs one (standard library only)."""
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .installing import apt, attempt, has_apt

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
USUAL_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
OWN = {"linux": "chrome-linux*/chrome", "win32": "chrome-win*/chrome.exe",
       "darwin": "chrome-mac*/*.app/Contents/MacOS/*"}

OTHERS = {"POSTTRAIN_BROWSERS": "1"}  # for the tests' process: Firefox and WebKitGTK too
TESTS_OF_OTHERS = "tests/page/test_other_browsers.py"
SCREENSHOTS = "build/screenshots"  # git ignores it
# an app open, running and done, the blocks, every template
TESTS_OF_SCREENSHOTS = tuple(f"tests/page/test_{name}.py" for name in ("newcomer", "apps", "blocks", "templates"))


class NoBrowser(RuntimeError):
    """No Chromium was found, nor could one be installed."""


def find() -> str | None:
    """Path of a Chromium: CHROMIUM, the machine's own, or one that Playwright installed."""
    asked = os.environ.get("CHROMIUM")
    if asked:
        return asked
    for name in NAMES:
        if found := shutil.which(name):
            return found
    for place in USUAL_PLACES:
        if Path(place).is_file():
            return place
    browsers = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    own = sorted(Path(browsers).glob(f"chromium-*/{OWN.get(sys.platform, '*')}")) if browsers else []
    return str(own[-1]) if own else None


def ensure(python: Path, variables: dict[str, str]) -> str:
    """Path of a Chromium; installs Playwright's own, or else Debian's package, where there is none."""
    os.environ["PLAYWRIGHT_BROWSERS_PATH"] = variables["PLAYWRIGHT_BROWSERS_PATH"]
    if found := find():
        return found
    print("No Chromium on this machine: installing one for the page tests.", flush=True)
    tries = [[str(python), "-m", "playwright", "install", "chromium"]]
    if has_apt():
        tries = [tries[0][:-1] + ["--with-deps", "chromium"], *apt("chromium")]
    said = []
    for command in tries:
        succeeded, words = attempt(command, variables)
        said.append(words)
        if succeeded and (found := find()):
            return found
    raise NoBrowser("\n".join([*said, "The page tests need Chromium and it could not be installed: install Chromium or Google "
                               "Chrome, or set CHROMIUM to its path, and run this again; other tests run without it "
                               "(develop.py test tests/unit)."]))
