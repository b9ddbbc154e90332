"""From a file of votes to a personal reward: verdicts on one image or on two, ties and "both bad" too, and the head they give."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ...rewards.base.words import brief
from ...rewards.images import UnreadableImage, read_image
from ...rewards.person.taste import Accuracy, Head, Verdict, cross_validated, fit
from .again import Consistency, Returns
from .files import lines_of
from .rows import BadRow, Picture, Place, skipped_text
from .vote_book import VOTES
from .votes import Vote, last_votes, picture_of


@dataclass(frozen=True)
class Taste:
    """A head, how often it is right on votes that it has not seen, and how many verdicts of each kind it was fitted from."""

    head: Head
    accuracy: Accuracy
    compared: int
    ties: int
    alone: int
    skipped: tuple[str, ...]
    consistency: Consistency = Consistency(0, 0)
    __repr__ = brief

    def summary(self) -> str:
        counts = f"Fitted from {self.compared} pairs, {self.ties} ties and {self.alone} single images"
        said = [self.accuracy.text(), self.consistency.text(), counts]
        return "\n".join(filter(None, said)) + skipped_text(self.skipped, "vote")


def votes_file(folder: Path) -> Path:
    """The file of votes in a folder of Rate by Hand. ValueError where nobody has rated anything there."""
    if not (folder / VOTES).is_file():
        raise ValueError(
            f"votes_name: there are no votes in '{folder.name}'; rate images with Rate by Hand under this name first"
        )
    return folder / VOTES


def taste_from(
    path: Path, embed: Callable[[Tensor], Tensor], progress: Callable[[int, int], None] = lambda done, all: None
) -> Taste:
    """path: of a file of votes; embed: an image [1, H, W, 3] in [0, 1] -> [1, D]; progress: (images done, of how many).

    ValueError where the votes tell nothing yet. Votes whose image is gone are left out and named.
    """
    pictures, verdicts, skipped = read_verdicts(path)
    embeddings, lost = _embedded(pictures, embed, progress)
    verdicts = [v for v in verdicts if v.first not in lost and v.second not in lost]
    kinds = ["alone" if v.second is None else "tie" if v.share == 0.5 else "compared" for v in verdicts]
    head = fit(embeddings, verdicts)
    compared, ties, alone = (kinds.count(kind) for kind in ("compared", "tie", "alone"))
    accuracy, consistency = cross_validated(embeddings, verdicts), Returns(path.parent).consistency()
    return Taste(head, accuracy, compared, ties, alone, (*skipped, *lost.values()), consistency)


def _embedded(pictures: Sequence[Picture], embed: Callable, progress: Callable) -> tuple[Tensor, dict[int, str]]:
    """[N, D], and why some rows of it are 0: by number."""
    rows: dict[int, Tensor] = {}
    lost: dict[int, str] = {}
    for i, picture in enumerate(pictures):
        try:
            image = read_image(io.BytesIO(picture.read()), picture.name)
        except (BadRow, UnreadableImage) as error:
            lost[i] = str(error)
        else:
            rows[i] = embed(image)[0].double().cpu()
        progress(i + 1, len(pictures))
    empty = torch.zeros(len(next(iter(rows.values()))) if rows else 1, dtype=torch.float64)
    return torch.stack([rows.get(i, empty) for i in range(len(pictures))]) if pictures else empty[None], lost


def read_verdicts(
    path: Path, permitted: Callable[[Path], bool] = lambda path: False
) -> tuple[list[Picture], list[Verdict], list[str]]:
    """A file of votes -> its images, verdicts that name them by number, and what was left out and why.

    Images seen side by side: each that was voted up is better than each voted down; two or more that were all voted up (down)
    are good (bad) each, and nothing is said of which is better; a tie is one. Images seen alone are good or bad.
    """
    place = Place(path.parent, permitted)
    votes, bad = last_votes(lines_of(path), place, "")
    pictures: list[Picture] = []
    numbers: dict[str, int] = {}
    skipped = [f"{name}: {error}" for name, error in bad]
    for vote in votes:
        try:
            if vote.vote or vote.tie:
                pictures.append(picture_of(vote, place))
                numbers[vote.key] = len(numbers)
        except BadRow as error:
            skipped.append(f"{vote.name}: {error}")
    sheets: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        if vote.key in numbers:
            sheets.setdefault((vote.prompt, vote.pair), []).append(vote)
    found = [verdict for (prompt, pair), sheet in sheets.items() for verdict in _of_sheet(sheet, numbers, prompt, pair)]
    return pictures, found, skipped


def _of_sheet(sheet: list[Vote], numbers: dict[str, int], prompt: str, pair: str) -> list[Verdict]:
    up, down, tied = ([numbers[v.key] for v in sheet if v.vote == side] for side in (1, -1, 0))
    time = max(v.time for v in sheet)
    if pair and up and down:
        return [Verdict(a, b, 1.0, prompt, time) for a, b in product(up, down)]
    if not pair or len(up) + len(down) > 1:  # one alone of a sheet is half of an answer
        return [Verdict(i, None, float(i in up), prompt, time) for i in up + down]
    return [Verdict(tied[0], tied[1], 0.5, prompt, time)] if len(tied) == 2 else []
