"""Scores as text: a table that a person can read and a spreadsheet can import (tab-separated)."""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Prompt, Scores


def table(scores: Scores, prompts: Sequence[Prompt]) -> str:
    """One line per image: number, score, each member raw and normalised (where normalised), prompt."""
    columns: dict[str, Tensor] = {"score": scores.values}
    if len(scores.members) + len(scores.normalised) > 1:
        columns |= scores.members | {f"{k} (normalised)": v for k, v in scores.normalised.items()}
    lines = ["\t".join(["image", *columns, "prompt"])]
    for i, prompt in enumerate(prompts):
        cells = [number(c[i].item()) for c in columns.values()]
        lines.append("\t".join([str(i + 1), *cells, " ".join(prompt.text.split())]))
    return "\n".join(lines)


def headline(scores: Scores) -> str:
    """Mean, spread and failures in one line."""
    s = scores.stats
    text = f"mean {number(s['mean'])}, std {number(s['std'])}, {number(s['min'])}..{number(s['max'])}"
    return text + (f", {int(s['failed'])} of {int(s['images'])} could not be scored" if s["failed"] else "")


def number(value: float) -> str:
    return "failed" if value != value else f"{value:.4g}"
