"""A person's taste as a linear head on an image embedding, fitted from votes.

    x_i = (e_i / |e_i| - mean) / spread                         embedding, centred, of length 1 in the mean square
    P(a is preferred to b) = sigmoid(w.x_a - w.x_b)             Bradley & Terry, Biometrika 39 (1952); a tie is half a win each
    P(i is good)           = sigmoid(w.x_i + c)                 logistic regression
    loss = sum of cross-entropies + |w|^2 / (2 PRIOR^2) + c^2 / (2 PRIOR_OF_C^2)

Every verdict is a row of one logistic regression with targets 1, 1/2 or 0, which is convex: Newton's method finds the one
minimum. "Both bad" is two images that are not good, and says nothing of which one is better. The head depends on no prompt.
How often it is right is measured on votes that it has not seen, and beside chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.words import brief
from .agreement import wilson

PRIOR = 3.0  # how far apart scores usually are, in logits: one image of twenty is then preferred surely
PRIOR_OF_C = 10.0
FOLDS, STEPS = 5, 50
FEW_VOTES, FEW_PROMPTS = 20, 5  # below either, nothing is said of how good a head is


@dataclass(frozen=True)
class Verdict:
    """What was said of one image, or of two side by side. first, second: numbers of images; second None: of one alone.

    share: 1 the first is better (or the image is good), 0 the second is better (or it is bad), 0.5 a tie. prompt: of the images.
    time: when it was said, seconds since 1970; 0 where nobody knows.
    """

    first: int
    second: int | None
    share: float
    prompt: str = ""
    time: float = 0.0


@dataclass(frozen=True)
class Head:
    """score = weight.(e / |e|) + bias, above 0 where good begins, or the middle where no image was judged alone. weight [D]."""

    weight: Tensor
    bias: float
    __repr__ = brief


@dataclass(frozen=True)
class Accuracy:
    """On votes that were held out: how many, of how many prompts, share that is right, its 95 % interval, and chance."""

    votes: int
    prompts: int
    share: float
    low: float
    high: float
    chance: float

    def text(self) -> str:
        """One sentence; what cannot be told is said."""
        if not self.votes:
            return (
                "Too few votes to say how often it is right: rate images of a second prompt, and if you use thumbs, both good "
                "and bad ones."
            )
        said = (
            f"Right on {self.share:.0%} of {self.votes} votes that it had not seen, of {self.prompts} prompts (95% interval "
            f"{self.low:.0%} to {self.high:.0%}); chance is {self.chance:.0%}."
        )
        if self.votes < FEW_VOTES or self.prompts < FEW_PROMPTS:
            return f"Too few votes to rely on: {FEW_VOTES} of {FEW_PROMPTS} prompts are the least. {said}"
        return (
            said if self.low > self.chance else f"Not shown to be better than chance: rate more before you train on it. {said}"
        )


def fit(embeddings: Tensor, verdicts: Sequence[Verdict]) -> Head:
    """embeddings [N, D] of any length -> the head. Only images that a verdict names are looked at.

    ValueError where the verdicts tell nothing: there is none, or all are ties, or all images are good, or all are bad.
    """
    if not any(v.share != 0.5 and v.second is not None for v in verdicts) and len(_of_one(verdicts)) < 2:
        raise ValueError(
            "votes: they hold no taste yet: no image was better than another, and none good where others are bad; rate some more"
        )
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    seen = sorted({i for v in verdicts for i in (v.first, v.second) if i is not None})
    mean = unit[seen].mean(0)
    spread = (unit[seen] - mean).square().sum(-1).mean().sqrt().clamp_min(1e-12)
    found = _logistic(_rows((unit - mean) / spread, verdicts), torch.tensor([v.share for v in verdicts], dtype=torch.float64))
    weight = PRIOR * found[:-1] / spread
    return Head(weight, float(PRIOR_OF_C * found[-1] - weight @ mean))


def _of_one(verdicts: Iterable[Verdict]) -> set[float]:
    """What was said of images alone."""
    return {v.share for v in verdicts if v.second is None}


def _rows(x: Tensor, verdicts: Sequence[Verdict]) -> Tensor:
    """[V, D + 1]: what each verdict's logit is in units of the prior, so that every unknown has the variance 1."""
    first = x[[v.first for v in verdicts]]
    alone = torch.tensor([v.second is None for v in verdicts])
    second = x[[v.first if v.second is None else v.second for v in verdicts]].masked_fill(alone[:, None], 0.0)
    return torch.cat([PRIOR * (first - second), PRIOR_OF_C * alone[:, None].double()], 1)


def _logistic(rows: Tensor, target: Tensor) -> Tensor:
    """rows [V, K], target [V] in 0..1 -> the unknowns [K] of least cross-entropy + |unknowns|^2 / 2."""
    basis = torch.linalg.qr(rows.T).Q if len(rows) < rows.shape[1] else torch.eye(rows.shape[1], dtype=rows.dtype)
    a = rows @ basis  # the best unknowns lie in the span of the rows

    def loss(z: Tensor) -> Tensor:
        logit = a @ z
        return (torch.nn.functional.softplus(logit) - target * logit).sum() + z.square().sum() / 2

    z = torch.zeros(a.shape[1], dtype=a.dtype)
    for _ in range(STEPS):
        p = torch.sigmoid(a @ z)
        slope = a.T @ (p - target) + z
        curve = a.T @ (a * (p * (1 - p))[:, None]) + torch.eye(len(z), dtype=a.dtype)
        step = torch.linalg.solve(curve, slope)
        while loss(z - step) > loss(z) and step.abs().max() > 1e-10:
            step = step / 2
        z = z - step
        if step.abs().max() < 1e-9:
            break
    return basis @ z


def cross_validated(embeddings: Tensor, verdicts: Sequence[Verdict], folds: int = FOLDS) -> Accuracy:
    """How often a head is right on votes that it was not fitted from. Deterministic.

    No prompt and no image is on both sides: what shares either stays together. Ties are not counted, nor images judged alone
    where all are good or all are bad; chance is a half for two images, and the share of the larger kind for single ones.
    Votes of one prompt may say the same: the interval is that of as many independent votes as vary as much between prompts.
    """
    together, both_kinds = _parts(verdicts), len(_of_one(verdicts)) == 2
    counts = [v.share != 0.5 and (v.second is not None or both_kinds) for v in verdicts]
    right: dict[int, list[bool]] = {}
    alone: list[float] = []
    for fold in range(folds):
        held = [(v, part) for v, part, counted in zip(verdicts, together, counts) if counted and part % folds == fold]
        try:
            head = fit(embeddings, [v for v, part in zip(verdicts, together) if part % folds != fold])
        except ValueError:  # nothing to learn from without this fold
            continue
        for v, part in held:
            right.setdefault(part, []).append(_is_right(head, embeddings, v))
        alone += [v.share for v, _ in held if v.second is None]
    return _accuracy(list(right.values()), alone)


def _is_right(head: Head, embeddings: Tensor, verdict: Verdict) -> bool:
    first = score(head, embeddings[verdict.first])
    return bool((first > (0 if verdict.second is None else score(head, embeddings[verdict.second]))) == (verdict.share == 1))


def score(head: Head, embedding: Tensor) -> Tensor:
    """embedding [..., D] -> [...]: the logit of "you like it"."""
    return torch.nn.functional.normalize(embedding.double(), dim=-1) @ head.weight + head.bias


def _parts(verdicts: Sequence[Verdict]) -> list[int]:
    """The part that each verdict belongs to, counted from 0: those that share a prompt or an image have the same one."""
    parent: dict[object, object] = {}

    def root(key: object) -> object:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for v in verdicts:
        for image in (v.first, v.second):
            if image is not None:
                parent[root(image)] = root(f"prompt {v.prompt}")
    numbers: dict[object, int] = {}
    return [numbers.setdefault(root(v.first), len(numbers)) for v in verdicts]


def _accuracy(right: Sequence[Sequence[bool]], alone: Sequence[float]) -> Accuracy:
    """right: by part, whether each vote was met; alone: what was said of the single images among them."""
    votes = sum(map(len, right))
    if not votes:
        return Accuracy(0, 0, math.nan, 0.0, 1.0, 0.5)
    share = sum(map(sum, right)) / votes
    larger = max(sum(alone), len(alone) - sum(alone))
    independent = _independent(right, share, votes)
    low, high = wilson(share * independent, independent)
    return Accuracy(votes, len(right), share, low, high, ((votes - len(alone)) / 2 + larger) / votes)


def _independent(right: Sequence[Sequence[bool]], share: float, votes: int) -> float:
    """How many independent votes vary as much as these do between their parts: at least as many as there are parts."""
    between = sum((sum(part) - share * len(part)) ** 2 for part in right)
    if len(right) < 2 or between == 0:
        return len(right)
    variance = between / votes**2 * len(right) / (len(right) - 1)
    return min(votes, max(len(right), share * (1 - share) / variance))
