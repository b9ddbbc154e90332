"""Scores as text: a table that a person can read and a spreadsheet can import (tab-separated)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .reward import Prompt, RewardInfo, Scores, summary

COUNTED = {"prompts_cut": "prompts too long for a reward, cut", "ocr_failures": "images that OCR failed on"}


def table(scores: Scores, prompts: Sequence[Prompt], names: Sequence[str] = ()) -> str:
    """One line per image: name (or number), score, each member raw and normalised (where normalised), prompt."""
    columns: dict[str, Tensor] = {"score": scores.values}
    if len(scores.members) + len(scores.normalised) > 1:
        columns |= scores.members | {f"{k} (normalised)": v for k, v in scores.normalised.items()}
    lines = ["\t".join(["image", *columns, "prompt"])]
    for i, prompt in enumerate(prompts):
        cells = [number(c[i].item()) for c in columns.values()]
        lines.append("\t".join([names[i] if names else str(i + 1), *cells, " ".join(prompt.text.split())]))
    return "\n".join(lines)


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of several batches by the same reward as one; counts of the last batch, which add up by themselves."""
    def together(tables: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([t[name] for t in tables]) for name in tables[0]}

    values = torch.cat([p.values for p in parts])
    return Scores(values, torch.cat([p.groups for p in parts]), together([p.members for p in parts]),
                  parts[-1].stats | summary(values), together([p.normalised for p in parts]), parts[0].weights)


def picked(scores: Scores, rows: Sequence[int]) -> Scores:
    """The scores of some images, in that order."""
    def of(tables: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[list(rows)] for name, values in tables.items()}

    return replace(scores, values=scores.values[list(rows)], groups=scores.groups[list(rows)], members=of(scores.members),
                   normalised=of(scores.normalised))


def ranked(scores: Scores) -> list[int]:
    """Numbers of the images from the best to the worst; those without a score come last."""
    return scores.values.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True).tolist()


def describe(info: RewardInfo) -> str:
    """What a user should know of a reward, in one line."""
    ends = ["unbounded" if end is None else f"{end:g}" for end in (info.low, info.high)]
    return (f"{info.name}: range {' .. '.join(ends)}; {'reads the prompt' if info.needs_prompt else 'looks at the image alone'}; "
            f"{'has a gradient' if info.differentiable else 'has no gradient'}. {info.description}")


def headline(scores: Scores) -> str:
    """Mean and spread, and what failed, each on a line."""
    s = scores.stats
    lines = [f"mean {number(s['mean'])}, std {number(s['std'])}, {number(s['min'])}..{number(s['max'])}"]
    if s["failed"]:
        lines.append(f"{int(s['failed'])} of {int(s['images'])} could not be scored")
    return "\n".join([*lines, *(f"{COUNTED.get(name, name)}: {int(count)}" for name, count in scores.counts.items())])


def number(value: float) -> str:
    return "failed" if value != value else f"{round(value, 5) + 0.0:.4g}"  # + 0.0: no "-0"
