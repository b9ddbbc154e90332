"""Which reward agrees with a person? Pairwise accuracy on labelled pairs, and how rewards go together.

Look at this before training: a reward that agrees with you on 55 % of pairs teaches mostly something else.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.reward import Prompt, Reward, as_reward, compares, score
from ..composite.combine import unique_names

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Agreement:
    """Of one reward: pairs it could score, share in which the chosen image scored higher (a tie is half), the ends of
    the 95 % Wilson interval, and pairs that failed."""

    name: str
    pairs: int
    accuracy: float
    low: float
    high: float
    failed: int


def score_pairs(rewards: Sequence[Reward], pairs: Iterable[tuple[Prompt, Tensor, Tensor]],
                progress: Callable[[int], None] = lambda done: None) -> Tensor:
    """Scores [rewards, pairs, 2] (preferred image, other image), float64, NaN = failed. pairs: prompt and two images
    [1,H,W,3], of any sizes. Rewards that compare images see the two together, and fail where their sizes differ."""
    columns: list[Tensor] = []
    for prompt, *images in pairs:
        columns.append(torch.stack([_scores(reward, images, prompt) for reward in rewards]))
        progress(len(columns))
    return torch.stack(columns, 1) if columns else torch.empty(len(rewards), 0, 2, dtype=torch.float64)


def _scores(reward: Reward, images: Sequence[Tensor], prompt: Prompt) -> Tensor:
    """[2]: the scores of the images of a pair."""
    if compares(reward):
        images = [torch.cat(list(images))] if images[0].shape == images[1].shape else []
    found = [score(reward, image, [prompt] * len(image), [0] * len(image)).values for image in images]
    return torch.cat(found) if found else torch.full((2,), torch.nan, dtype=torch.float64)


def agreement(name: str, scores: Tensor) -> Agreement:
    """scores [pairs, 2] -> accuracy with its interval."""
    gap = scores[:, 0] - scores[:, 1]
    gap = gap[~gap.isnan()]
    wins = (gap > 0).sum().item() + 0.5 * (gap == 0).sum().item()
    low, high = wilson(wins, len(gap))
    return Agreement(name, len(gap), wins / len(gap) if len(gap) else math.nan, low, high, len(scores) - len(gap))


def wilson(wins: float, count: float) -> tuple[float, float]:
    """95 % interval of a share; (0, 1) where nothing is known."""
    if count == 0:
        return 0.0, 1.0
    share, z2 = wins / count, Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def correlations(scores: Tensor) -> Tensor:
    """scores [rewards, pairs, 2] -> [rewards, rewards]: Pearson correlation of the scores inside the pairs.

    Each pair's mean is taken away first: rewards differ between prompts for reasons that have nothing to do with which
    image is better. NaN where two rewards share no pair, or one of them never differs inside a pair.
    """
    inside = scores[..., 0] - scores[..., 1]
    result = torch.full((len(scores),) * 2, torch.nan, dtype=torch.float64)
    for i, a in enumerate(inside):
        for j, b in enumerate(inside):
            both = ~(a.isnan() | b.isnan())
            length = (a[both].square().sum() * b[both].square().sum()).sqrt()
            if length > 0:
                result[i, j] = (a[both] * b[both]).sum() / length
    return result


def report(rewards: Sequence[Reward], scores: Tensor) -> list[str]:
    """Two paragraphs: the accuracy of each reward, best first, and the correlation matrix as a tab-separated table."""
    names = unique_names([as_reward(r).info.name for r in rewards])
    rows = sorted((agreement(n, s) for n, s in zip(names, scores)), key=lambda a: -a.accuracy if a.pairs else 1.0)
    lines = ["Agrees with the labels:"]
    for a in rows:
        lines.append(f"{a.name}: {a.accuracy:.1%} of {a.pairs} pairs, 95% interval {a.low:.1%}..{a.high:.1%}"
                     f"{'' if a.low > 0.5 else '; prefers the other image' if a.high < 0.5 else '; may be chance'}")
        lines += [f"{a.name}: {a.failed} failed"] if a.failed else []
    matrix = ["\t".join(["correlation inside the pairs", *names])]
    for name, row in zip(names, correlations(scores).tolist()):
        matrix.append("\t".join([name, *(f"{v:.2f}" for v in row)]))
    return ["\n".join(lines), "\n".join(matrix)]
