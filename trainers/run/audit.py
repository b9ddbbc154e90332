"""Two models' pictures from the same prompts and noise, compared: colour, light, detail, composition, diversity, and how strongly
words such as "vibrant" are obeyed. What differs is what lies between the two models.

A sign needs a difference that can be seen and that chance does not explain. Thresholds are those of the alarms (alarms.py,
gallery.py), which look at the same things while a training runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...rewards.base.words import brief, shown
from .alarms import LOOKS as NUMBERS
from .gallery import CERTAIN, changed_looks, looks_of
from .gallery import LOOKS as GALLERY
from .pictures import each_picture, thumbnails

ALIKE = 1 / NUMBERS["picture_variety"].visible  # of the diversity before
OBEYED = ("picture_colourfulness", "picture_brightness")  # what a word's effect is measured by
ALMOST = 0.5  # of what is visible: the difference of two differences


@dataclass(frozen=True)
class Number:
    """One number of the pictures: its means before and after, and the standard error of the mean paired difference. sign: what
    it is a sign of, in words; "" for none."""

    name: str
    before: float
    after: float
    error: float
    sign: str = ""
    __repr__ = brief

    def words(self) -> str:
        change = f"{self.after - self.before:+.3g} ± {self.error:.2g}"
        text = f"{self.name}: {self.before:.3g} before, {self.after:.3g} after ({change})"
        return f"{text}: {self.sign}" if self.sign else text


@dataclass(frozen=True)
class Audit:
    """What was found. numbers: all that was measured, signs among them; images: of each model."""

    numbers: tuple[Number, ...]
    images: int
    __repr__ = brief

    @property
    def signs(self) -> list[str]:
        return [number.sign for number in self.numbers if number.sign]

    def verdict(self) -> str:
        """One sentence, or two."""
        if not self.signs:
            return f"No sign that the second model's pictures have been spoilt, in {self.images} pictures of each."
        signs = "; ".join(self.signs)
        return (
            f"{len(self.signs)} {'sign' if len(self.signs) == 1 else 'signs'}, in {self.images} pictures of each model. "
            f"The second model's are: {signs}"
        )

    def report(self) -> str:
        return "\n".join([self.verdict(), *(number.words() for number in self.numbers)])


def audit(before: Tensor, after: Tensor, index: Tensor) -> list[Number]:
    """before, after: images [N, H, W, 3] in [0, 1] of two models, in pairs of one prompt and noise; index: [N] their prompts."""
    if before.shape != after.shape or len(before) < 2:
        raise ValueError(f"images: the models' have to be as many, of one size, and 2 or more; they are {list(before.shape)} and "
                         f"{list(after.shape)}")  # fmt: skip
    return [*_numbers(before, after), *_looks(before, after), *_diversity(thumbnails(before), thumbnails(after), index)]


def obeyed(word: str, plain: Sequence[Tensor], asked: Sequence[Tensor]) -> list[Number]:
    """How much pictures change when ``word`` stands before their prompt, by either model. plain: (before, after) images without
    it; asked: with it, from the same prompts and noise."""
    looked = [(each_picture(without), each_picture(with_it)) for without, with_it in zip(plain, asked, strict=True)]
    return [_obeyed(word, name, *((there[name] - here[name]).double() for here, there in looked)) for name in OBEYED]


def fidelity(name: str, before: Tensor, after: Tensor) -> Number:
    """name: of the reward that judged. before, after: scores [N]; NaN where one failed."""
    known = before.isfinite() & after.isfinite()
    found = _paired(f"follows prompts, by {shown(name, 60)}", before[known].double(), after[known].double())
    falls = found.before - found.after > CERTAIN / 2 * found.error
    return replace(found, sign="less true to their prompts") if falls else found


def _numbers(before: Tensor, after: Tensor) -> list[Number]:
    first, now = each_picture(before), each_picture(after)
    found = []
    for name in first:
        pair = _paired(name.removeprefix("picture_"), first[name].double(), now[name].double())
        word = NUMBERS[name].word(pair.before, pair.after)
        found.append(replace(pair, sign=word) if word and _certain(pair) else pair)
    return found


def _looks(before: Tensor, after: Tensor) -> list[Number]:
    """The seven looks of gallery.py."""
    first, now = looks_of(before), looks_of(after)
    changed = {look.name for look in changed_looks(first, now)}
    pairs = [_paired(name, torch.tensor(first[name]).double(), torch.tensor(now[name]).double()) for name in GALLERY]
    return [replace(pair, sign=GALLERY[pair.name].word) if pair.name in changed else pair for pair in pairs]


def _diversity(before: Tensor, after: Tensor, index: Tensor) -> list[Number]:
    """How far a prompt's pictures lie apart, and how far the prompts do: root mean square of thumbnails [N, 3, h, w]."""
    within = _spread(
        "diversity within a prompt", "much more alike within a prompt", _apart(before, index), _apart(after, index)
    )
    first, now = _means(before, index), _means(after, index)
    if len(first) < 2:
        return [within]
    return [within, _spread("diversity between prompts", "much more alike from prompt to prompt", _around(first), _around(now))]


def _around(means: Tensor) -> Tensor:
    """[P]: the distance of each to the mean of all."""
    return (means - means.mean(0)).square().flatten(1).mean(1).sqrt()


def _spread(name: str, sign: str, before: Tensor, after: Tensor) -> Number:
    pair = _paired(name, before.double(), after.double())
    return replace(pair, sign=sign) if pair.after < ALIKE * pair.before and _certain(pair) else pair


def _means(small: Tensor, index: Tensor) -> Tensor:
    return torch.stack([small[index == number].mean(0) for number in index.unique()])


def _apart(small: Tensor, index: Tensor) -> Tensor:
    """[N]: the distance of each to the mean of its prompt."""
    return (small - _means(small, index)[index.unique(return_inverse=True)[1]]).square().flatten(1).mean(1).sqrt()


def _obeyed(word: str, name: str, before: Tensor, after: Tensor) -> Number:
    what = name.removeprefix("picture_")
    pair = _paired(f"{shown(word, 40)}: {what}", before, after)
    more = abs(pair.after) - abs(pair.before)
    if more > ALMOST * NUMBERS[name].visible and _certain(pair):
        return replace(pair, sign=f"overdone where the prompt says {shown(word, 40)} ({what})")
    return pair


def _certain(pair: Number) -> bool:
    return abs(pair.after - pair.before) > CERTAIN * pair.error


def _paired(name: str, before: Tensor, after: Tensor) -> Number:
    moved = after - before
    error = float(moved.std()) / math.sqrt(len(moved)) if len(moved) > 1 else math.inf
    return Number(name, _mean(before), _mean(after), error)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


def side_by_side(pictures: Sequence[Tensor], index: Tensor, most: int) -> Tensor:
    """The first picture of each of the first ``most`` prompts in every set [N, H, W, 3], a row of len(pictures) for a prompt."""
    first = [int((index == number).nonzero()[0]) for number in index.unique()[:most]]
    return torch.stack([each[row] for row in first for each in pictures])
