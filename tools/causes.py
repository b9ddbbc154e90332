"""Why the set-up cannot go on, in one sentence with what to do, found in the last words of pip and of the system."""
from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

AGAIN = "and run the same command again: it goes on where it stopped."

# The first that is found counts: a full disk is one also when the network was slow before.
CAUSES = (
    (r"\bErrno 28\b|No space left|\bErrno 122\b|Disk quota exceeded|WinError 112\b",
     "The disk is full: free about 8 GB where {folder} and {temporary} are, or set {variable} to a folder with more room,"),
    (r"ProxyError|Tunnel connection failed|407 Proxy",
     "The proxy refuses the connection: correct HTTPS_PROXY (or pip's own proxy setting), or unset it,"),
    (r"CERTIFICATE_VERIFY_FAILED|SSLError",
     "The encrypted connection to the package index is not trusted: set PIP_CERT to the certificates of your network (a file),"),
    (r"after connection broken|NewConnectionError|Max retries exceeded|Read timed out|ConnectionResetError|IncompleteRead"
     r"|IncompleteDownload|Network is unreachable|[Nn]ame resolution|Name or service not known|getaddrinfo failed",
     "The package index cannot be reached: connect to the network (or set PIP_INDEX_URL to an index that you reach),"),
    (r"No module named '?ensurepip|ensurepip is not available|ensurepip.*returned non-zero|No module named '?venv",
     "This Python cannot make a virtual environment: install python3-venv (Debian, Ubuntu) or Python from python.org,"),
    (r"Microsoft Visual C\+\+ [\d.]+ or greater is required|command '\S*(?:cc|g\+\+|clang|cl\.exe)\S*' failed|"
     r"No such file or directory: '\S*(?:cc|g\+\+|clang)'|No CMAKE_CXX_COMPILER",
     "A package has to be compiled here and there is no C++ compiler: install one (g++ on Debian and Ubuntu, Xcode's command "
     "line tools, or Visual Studio's Build Tools),"),
    (r"No matching distribution found",
     "The package index offers no build for Python {python} on {machine}, or refuses to answer: use a 64-bit Python 3.11 to "
     "3.13 and an index with all of PyPI (PIP_INDEX_URL),"),
    (r"\bErrno (?:13|20|30)\b|Permission denied|Read-only file system|Not a directory|WinError 5\b",
     "The folder {folder} cannot be written to: set {variable} to one that can,"),
)


def advice(words: str, folder: Path) -> str:
    """What to do about a set-up in ``folder`` that ended with these words, as one sentence."""
    if nearly_full(folder):
        words += "\nNo space left"  # some programs end without a word about it
    found = next((sentence for pattern, sentence in CAUSES if re.search(pattern, words)), "Mend what these last words name,")
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "HOME" if sys.platform == "darwin" else "XDG_CACHE_HOME"
    return found.format(folder=folder, variable=variable, temporary=tempfile.gettempdir(), machine=platform.machine(),
                        python=".".join(map(str, sys.version_info[:2]))) + " " + AGAIN


def nearly_full(folder: Path) -> bool:
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    return there is not None and shutil.disk_usage(there).free < 5_000_000
