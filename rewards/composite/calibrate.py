"""Statistics of rewards on the base model's images, measured once and kept with the run.

Rewards that are put on one scale with these statistics keep their meaning over the whole run: the scale does not move
with the policy, as that of the batch does.
"""
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..base.reward import Scores
from ..base.words import brief

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FILE = "calibration.json"
FEWEST = 8


@dataclass(frozen=True)
class Statistics:
    """Of one reward on `count` images: mean, population std, std inside prompt groups, quantiles by level."""

    count: int
    mean: float
    std: float
    group_std: float
    quantiles: dict[str, float]
    __repr__ = brief


Calibration = Mapping[str, Statistics]  # reward name -> statistics


def calibrate(scores: Scores) -> dict[str, Statistics]:
    """Statistics of every member of a scored batch. Raises ValueError where too few images have a score."""
    result = {}
    for name, values in scores.members.items():
        good = ~values.isnan()
        if good.sum() < FEWEST:
            raise ValueError(f"calibrate: '{name}' has a score for {int(good.sum())} images only; score at least "
                             f"{FEWEST} images, better 64 or more.")
        v, groups = values[good], scores.groups[good]
        spreads = [v[groups == g].std(correction=0) for g in groups.unique() if (groups == g).sum() > 1]
        result[name] = Statistics(
            int(good.sum()), v.mean().item(), v.std(correction=0).item(),
            torch.stack(spreads).mean().item() if spreads else float("nan"),
            {f"{q:g}": v.quantile(q).item() for q in QUANTILES})
    return result


def save(calibration: Calibration, folder: Path) -> Path:
    """Writes calibration.json into a run's folder, at once and whole."""
    folder.mkdir(parents=True, exist_ok=True)
    file, part = folder / FILE, folder / f"{FILE}.tmp"
    part.write_text(json.dumps({k: asdict(v) for k, v in calibration.items()}, indent=1), "utf-8")
    os.replace(part, file)
    return file


def load(folder: Path) -> dict[str, Statistics]:
    """What save() wrote; {} if there is none. Raises ValueError for a file that cannot be read."""
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        return {name: Statistics(**entry) for name, entry in json.loads(file.read_text("utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read ({error}). Delete it to calibrate again.") from error


def describe(calibration: Calibration) -> str:
    """A line per reward."""
    return "\n".join(f"{name}: mean {s.mean:.4g}, std {s.std:.4g}, inside a prompt {s.group_std:.4g}, middle half "
                     f"{s.quantiles['0.25']:.4g}..{s.quantiles['0.75']:.4g} ({s.count} images)"
                     for name, s in calibration.items())
