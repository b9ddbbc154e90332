"""A run's numbers and pictures in the files of other tools, beside the run: TensorBoard's, or Weights & Biases' of a run that was
offline. Nothing leaves the computer.

They are written from the run's folder whenever that is asked, also while it trains; what was written before is replaced.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from ...rewards.base.files import read_bytes
from ...rewards.base.words import from_group
from .aside import read_config
from .metrics import read_metrics
from .samples import HELD_OUT, TRAINED

METRICS, SAMPLES = "metrics.jsonl", "samples"
NUMBER = re.compile(rf"({TRAINED}|{HELD_OUT})_(\d+)\.(?:webp|jpg)")
NAMES = {TRAINED: "samples", HELD_OUT: "held-out prompts"}


def to_tensorboard(folder: Path) -> Path:
    """-> the folder to give to ``tensorboard --logdir``. ValueError where TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401 (torch's words would not say what is missing)
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(missing("TensorBoard", "tensorboard")) from None

    place = _emptied(folder / "tensorboard")
    with SummaryWriter(str(place)) as writer:
        for iteration, when, numbers in curve(folder):
            for name, value in numbers.items():
                writer.add_scalar(name, value, iteration, walltime=when)
        for name, iteration, picture in sheets(folder):
            writer.add_image(name, picture, iteration, dataformats="HWC")
    return place


def to_wandb(folder: Path) -> Path:
    """-> the folder to give to ``wandb sync``. ValueError where Weights & Biases is not installed."""
    try:
        import wandb
    except ImportError:
        raise ValueError(missing("Weights & Biases", "wandb")) from None

    _emptied(folder / "wandb")
    quiet = dict(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True)
    with wandb.init(
        project="posttrain",
        name=folder.name,
        dir=str(folder),
        mode="offline",
        config=(read_config(folder) or {}).get("settings", {}),
        reinit="create_new",
        settings=wandb.Settings(**quiet),
    ) as run:
        pictures: dict[int, dict[str, Any]] = {}
        for name, iteration, picture in sheets(folder):
            pictures.setdefault(iteration, {})[name] = wandb.Image(picture)
        for iteration, _, numbers in curve(folder):
            run.log(numbers | pictures.get(iteration, {}), step=iteration)
        return Path(run.settings.sync_dir)


TOOLS: dict[str, Callable[[Path], Path]] = {"tensorboard": to_tensorboard, "wandb": to_wandb}


def curve(folder: Path) -> Iterator[tuple[int, float | None, dict[str, float]]]:
    """(iteration, the second in which it ended, its numbers by name)"""
    for point in read_metrics(folder / METRICS):
        iteration, when = point.pop("iteration"), point.pop("time", None)
        yield iteration, when, {name: float(value) for name, value in point.items() if isinstance(value, (int, float))}


def sheets(folder: Path) -> Iterator[tuple[str, int, Any]]:
    """(name, iteration, the sheet of sample pictures as [H, W, 3] of bytes)"""
    import numpy
    from PIL import Image

    for path in sorted((folder / SAMPLES).glob("*")):
        if (found := NUMBER.fullmatch(path.name)) and not path.is_symlink():
            with Image.open(BytesIO(read_bytes(path))) as picture:
                yield NAMES[found[1]], int(found[2]), numpy.asarray(picture.convert("RGB"))


def missing(name: str, package: str) -> str:
    return (
        f"export: for {name} files the Python package '{package}' is needed; install it into ComfyUI's Python "
        f"{from_group('trackers')}, and start ComfyUI again. The table (CSV) needs nothing."
    )


def _emptied(place: Path) -> Path:
    if place.is_symlink():
        raise ValueError(f"export: {place.name} in the run's folder is a link, which is not followed; remove it")
    shutil.rmtree(place, ignore_errors=True)
    return place
