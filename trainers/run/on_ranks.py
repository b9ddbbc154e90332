"""A run's folder where several ranks share the training: the first one's counts, the others work on a copy that nobody keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...rewards.base import ranks
from ...rewards.base.names import meant
from .aside import BEST, CALIBRATION, CHECKPOINTS, CONFIG
from .checkpoints import list_checkpoints
from .folder import CONTINUE, METRICS, Run, check_name
from .held_out import FILE

KNOWN = (CONFIG, METRICS, CALIBRATION, FILE)


def open_on_all(root: Path, name: str, open_run: Callable[[str], Run]) -> Run:
    """The run as the first rank opens it. open_run: told how an existing run is met, "" as the user wants it; the other ranks'
    folders become copies of the first one's, from which they then go on."""
    folder = meant(Path(root) / check_name(name))
    run = None if ranks.helps() else open_run("")
    try:
        files = ranks.of_first("the run's folder", lambda: _files(folder) if ranks.count() > 1 else {})
        if run is not None:
            return run
        for place, content in files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
        return open_run(CONTINUE)
    except BaseException:
        if run is not None:
            run.close()
        raise


def _files(folder: Path) -> dict[str, bytes]:
    """What a run is gone on from: its settings, its curve, the newest checkpoint and the best policy."""
    kept = [path for place in (CHECKPOINTS, BEST) for _, path in list_checkpoints(folder / place)[-1:]]
    found = [path for path in (*(folder / known for known in KNOWN), *kept) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
