"""What the user has opened to workflows: folders that they may read, and addresses that they may send pictures to.

A workflow may come from anywhere, and what it reads it can also send. So it reads ComfyUI's input folder (and the
votes of Rate by Hand) and sends to this machine; everything else is opened by the user, in a file that no workflow can write:

    <ComfyUI's user folder>/posttrain.json    {"folders": ["D:/pictures"], "addresses": ["https://judge-host:8000"]}

or for one start of ComfyUI in the environment variables POSTTRAIN_FOLDERS (as PATH is written) and POSTTRAIN_ADDRESSES
(with spaces between). docs/security.md has the whole picture.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ..rewards.base.words import shown, unwritable

FILE, FOLDERS, ADDRESSES = "posttrain.json", "folders", "addresses"
EXAMPLE = "D:/pictures"
VARIABLES = {FOLDERS: "POSTTRAIN_FOLDERS", ADDRESSES: "POSTTRAIN_ADDRESSES"}
LONGEST = 1000  # characters of a path
KEY, KEY_VARIABLE, SHORTEST_KEY = "page_key", "POSTTRAIN_PAGE_KEY", 16


def settings_file() -> Path:
    import folder_paths

    return Path(folder_paths.get_user_directory()) / FILE


def opened(what: str) -> list[str]:
    """The user's own words in the settings file and in the environment. ValueError where the file cannot be read."""
    found = _written(what, [])
    if not (isinstance(found, list) and all(isinstance(each, str) for each in found)):
        raise _unreadable(f'"{what}" is no list of texts')
    told = os.environ.get(VARIABLES[what], "")
    return found + [part for part in told.split(os.pathsep if what == FOLDERS else None) if part]


def page_key() -> str:
    """What a training elsewhere shows, so that this ComfyUI's page takes it; and what it shows itself. "" where the user has set
    none. ValueError where it cannot be one."""
    found = os.environ.get(KEY_VARIABLE) or _written(KEY, "")
    if found and not (isinstance(found, str) and found.isascii() and found.isprintable() and len(found) >= SHORTEST_KEY):
        raise ValueError(f"the key ({KEY_VARIABLE}, or {KEY} in {FILE}) has to have {SHORTEST_KEY} letters and digits or more")
    return found


def _written(what: str, otherwise):
    """What the settings file says; ``otherwise`` where it is silent, or not there. ValueError where it cannot be read."""
    try:
        file = settings_file()
        return json.loads(file.read_text(encoding="utf-8-sig")).get(what, otherwise) if file.is_file() else otherwise
    except (OSError, ValueError, AttributeError) as error:
        raise _unreadable(error) from None


def _unreadable(why: object) -> ValueError:
    return ValueError(f"{FILE} in ComfyUI's user folder cannot be read ({why}); correct it, or take it away")


def allow_address(address: str) -> None:
    """Writes an address into the settings file, beside what is there. For the user's own answer only."""
    from ..rewards.base.files import written_whole

    file, known = settings_file(), opened(ADDRESSES)
    settings = json.loads(file.read_text(encoding="utf-8-sig")) if file.is_file() else {}
    if address not in known:
        with written_whole(file) as beside:
            beside.write_text(json.dumps(settings | {ADDRESSES: [*settings.get(ADDRESSES, []), address]}, indent=1), "utf-8")


def located(name: str, field: str = "file") -> Path:
    """The file or folder of that name in ComfyUI's input folder, or a full path in it or in a folder that the user has opened.

    Decided by the name alone: nothing outside is looked at, not even whether it exists. ValueError names ``field``.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST or unwritable(name):
        raise ValueError(
            f"{field}: {shown(name)} cannot be a path; type the name of a file or folder in ComfyUI's input folder"
        )
    path = Path(os.path.abspath(_input_folder() / Path(name.strip()).expanduser()))
    if not may_read(path):
        raise ValueError(
            f"{field}: {shown(name)} lies outside of ComfyUI's input folder, and what a workflow can read it can also send "
            f"away. Move it there. Or, if you want your workflows to read it, open its folder: write it into {FILE} in "
            f'ComfyUI\'s user folder, {{"{FOLDERS}": ["{EXAMPLE}"]}}, or into the environment variable {VARIABLES[FOLDERS]}, '
            "and queue again"
        )
    return path


def state_of(name: str | None, look: Callable[[Path], object] = lambda path: path.stat().st_mtime_ns):
    """For IS_CHANGED: what ``look`` says of a file or folder, "missing", or NaN where a wired name is not known yet or is
    one that the node will refuse."""
    if name is None:
        return float("nan")
    try:
        path = located(name)
        return look(path) if path.exists() else "missing"
    except (OSError, ValueError):
        return float("nan")


def may_read(path: Path) -> bool:
    """Whether a workflow may read this absolute path: by its name, so that links which the user has placed are followed."""
    return any(_inside(path, Path(root).expanduser()) for root in (_input_folder(), votes_root(), *opened(FOLDERS)))


def check_address(url: str, what: str = "pictures and prompts") -> None:
    """Passes addresses of this machine and those that the user has allowed; ValueError says how to allow one. what: would be
    sent there."""
    from ..rewards.vlm.address import KEY_URL_VARIABLE, is_here, origin_of

    origin = origin_of(url)
    allowed = [*opened(ADDRESSES), *filter(None, [os.environ.get(KEY_URL_VARIABLE)])]
    if is_here(origin) or origin in [origin_of(each) for each in allowed]:
        return
    raise AddressNotAllowed(origin, what)


class AddressNotAllowed(ValueError):
    """A workflow wants to send to a foreign address that the user has not allowed yet."""

    def __init__(self, origin: str, what: str = "pictures and prompts"):
        self.origin = origin
        super().__init__(
            f"url: {what} would be sent to {shown(origin, 200)}, which is another machine, and you have not "
            f"allowed that yet. If you trust it, answer the question in the page, or write the address into {FILE} in "
            f'ComfyUI\'s user folder, {{"{ADDRESSES}": ["{shown(origin, 200)}"]}}, or into the environment variable '
            f"{VARIABLES[ADDRESSES]}, and queue again"
        )


def votes_root() -> Path:
    """Where Rate by Hand keeps votes and the pictures that were voted on."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "posttrain_votes"


def _input_folder() -> Path:
    import folder_paths

    return Path(folder_paths.get_input_directory())


def _inside(path: Path, root: Path) -> bool:
    if not root.is_absolute():
        return False
    whole, part = (os.path.normcase(os.path.abspath(each)) for each in (path, root))
    try:
        return os.path.commonpath((whole, part)) == part
    except ValueError:  # on other drives
        return False
