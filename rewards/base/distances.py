"""How far two sets of pictures lie apart, told by their features: FID, KID and CMMD, with a standard error by the bootstrap.

    FID  = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))                                               arXiv:1706.08500
    KID  = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), k(a, b) = (a.b / D + 1)^3                 arXiv:1801.01401
    CMMD = 1000 times that with k(a, b) = exp(-|a - b|^2 / 200), of features of length 1             arXiv:2401.09603

m and C are the mean and the covariance of a set's features; x' and y' are other pictures of the same set than x and y. FID
of few pictures is too large, and comparable only with that of as many; KID and CMMD are right on the average with any number.
(CMMD's published code also counts each picture beside itself, which adds a little that shrinks with their number.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS, FEWER, MANY = 100, 25, 500  # of the bootstrap; fewer from so many pictures on, where each draw takes long
SIGMA, SCALE = 10.0, 1000.0  # CMMD's kernel
CERTAIN = 1.959963984540054  # standard errors: 95 %

Weighted = Callable[[Tensor, Tensor], float]  # how often each picture counts, of either set -> the distance


@dataclass(frozen=True)
class Distance:
    """One distance of pictures to the same other ones, before a training and after it.

    before: None where only what is now was measured. error: the standard error of ``change``, or else of ``after``.
    """

    name: str
    after: float
    before: float | None
    error: float

    @property
    def change(self) -> float:
        """After less before; ``after`` where nothing was measured before."""
        return self.after - (self.before or 0.0)

    @property
    def rises(self) -> bool:
        """Whether it is larger than before, by more than chance explains."""
        return self.before is not None and self.change > CERTAIN * self.error

    def words(self) -> str:
        low, high = (self.change + sign * CERTAIN * self.error for sign in (-1, 1))
        if self.before is None:
            return f"{self.name} {self.after:.4g} (95 %: {low:.3g} to {high:.3g})"
        return (f"{self.name}: {self.before:.4g} before, {self.after:.4g} after, {self.change:+.3g} (95 %: {low:+.3g} to "
                f"{high:+.3g})")  # fmt: skip


def fid(first: Tensor, second: Tensor) -> float:
    """Features [N, D] and [M, D], N and M at least 2 -> at least 0, without a unit; equal sets have 0."""
    return _plain(_frechet(first, second), first, second)


def kid(first: Tensor, second: Tensor) -> float:
    """Features [N, D] and [M, D], N and M at least 2 -> the unbiased estimate, which may lie below 0."""
    return _plain(_kid(first, second), first, second)


def cmmd(first: Tensor, second: Tensor) -> float:
    """CLIP's embeddings [N, D] and [M, D], of any length, N and M at least 2 -> the unbiased estimate, at most 2000."""
    return _plain(_cmmd(first, second), first, second)


def measured(name: str, reference: Tensor, after: Tensor, before: Tensor | None = None, seed: int = 0) -> Distance:
    """The distance of that name (FID, KID, CMMD) to ``reference`` [M, D] of ``after`` [N, D] and of ``before``, whose rows are
    the same prompts and noise. Drawn again are pictures: after and before together, the reference for itself."""
    sets = [after] if before is None else [after, before]
    if not all(torch.isfinite(each).all() for each in (reference, *sets)):
        raise ValueError(f"{name}: features of a picture are not finite; the picture is, or the network's precision is too low")
    answers = [MEASURES[name](each, reference) for each in sets]
    values = [_plain(answer, each, reference) for answer, each in zip(answers, sets, strict=True)]
    source = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(DRAWS if max(len(after), len(reference)) <= MANY else FEWER):
        counts, of_reference = _counts(len(after), source), _counts(len(reference), source)
        found = [answer(counts, of_reference) for answer in answers]
        drawn.append(found[0] - (found[1] if before is not None else 0.0))
    return Distance(name, values[0], values[1] if before is not None else None, float(torch.tensor(drawn).double().std()))


def _plain(answer: Weighted, first: Tensor, second: Tensor) -> float:
    return answer(torch.ones(len(first), dtype=torch.float64), torch.ones(len(second), dtype=torch.float64))


def _counts(size: int, source: torch.Generator) -> Tensor:
    """How often each of ``size`` is drawn in as many draws; at least two different ones."""
    while True:
        counts = torch.randint(size, (size,), generator=source).bincount(minlength=size).double()
        if (counts > 0).sum() > 1:
            return counts


def _frechet(first: Tensor, second: Tensor) -> Weighted:
    first, second = _sets(first, second)

    def answer(of_first: Tensor, of_second: Tensor) -> float:
        one, two = (_centred(each, counts) for each, counts in ((first, of_first), (second, of_second)))
        # the eigenvalues of C1 C2 are the squared singular values of the product of the sets' roots
        together = torch.linalg.svdvals(_root(one[1]) @ _root(two[1]).T).sum()
        spread = one[1].square().sum() + two[1].square().sum() - 2 * together
        return float((one[0] - two[0]).square().sum() + spread.clamp_min(0.0))

    return answer


def _centred(features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [D], and A [N, D] of which A^T A is the covariance."""
    total = counts.sum()
    mean = (counts @ features) / total
    return mean, (features - mean) * (counts / (total - 1)).sqrt()[:, None]


def _root(rows: Tensor) -> Tensor:
    """R with R^T R = A^T A and no more rows than columns."""
    return torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows


def _kid(first: Tensor, second: Tensor) -> Weighted:
    first, second = _sets(first, second)
    return _discrepancy(first, second, lambda a, b: (a @ b.T / a.shape[1] + 1).pow(3))


def _cmmd(first: Tensor, second: Tensor) -> Weighted:
    first, second = (F.normalize(each, dim=1) for each in _sets(first, second))
    # of unit vectors |a - b|^2 = 2 - 2 a.b
    return _discrepancy(first, second, lambda a, b: SCALE * torch.exp((a @ b.T - 1) / SIGMA**2))


def _discrepancy(first: Tensor, second: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Weighted:
    """The unbiased squared maximum mean discrepancy: no picture beside itself, also where it was drawn twice."""
    alike = [kernel(each, each).fill_diagonal_(0.0) for each in (first, second)]
    across = kernel(first, second)

    def answer(of_first: Tensor, of_second: Tensor) -> float:
        within = sum(counts @ each @ counts / (counts.sum().square() - counts.square().sum())
                     for each, counts in zip(alike, (of_first, of_second), strict=True))  # fmt: skip
        return float(within - 2 * (of_first @ across @ of_second) / (of_first.sum() * of_second.sum()))

    return answer


def _sets(*features: Tensor) -> Sequence[Tensor]:
    """In float64. Refuses sets that have no spread."""
    if any(each.ndim != 2 or len(each) < 2 for each in features):
        raise ValueError(
            f"a distance needs 2 pictures or more in either set; there are {' and '.join(str(len(e)) for e in features)}"
        )
    return [each.double() for each in features]


MEASURES: dict[str, Callable[[Tensor, Tensor], Weighted]] = {"FID": _frechet, "KID": _kid, "CMMD": _cmmd}
