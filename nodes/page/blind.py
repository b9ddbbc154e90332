"""Blind comparisons: a run's held-out pictures beside those before training, or another run's, on hidden sides.

GET /posttrain/runs/{run}/report -> what the run came to (report.py), with "others": the runs that it can be compared
    with, itself first for the model before training
POST /posttrain/runs/{run}/blind {"against": a run's name; its own for the model before training} -> {"question": id, "pairs"}
The question is one of rating.py: every page shows it. Its answers are kept at once, and its result when it is ended.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from ...rewards.base.pixels import png_bytes
from ...rewards.person.by_hand import BEST_AND_WORST, Sheet
from ...trainers.data.blind import counted, sides
from ...trainers.data.vote_book import VoteBook, sha256
from ...trainers.run.compared import Compared, compared_texts, kept_compared, read_compared
from .rating import RatingRequest, is_open, put_up, take_down
from .report import note_blind, report_of, write_report
from .run_reader import run_folder, runs_root
from .server import add_routes, answering, body_of

VOTES = "blind"  # in the run's folder: the answers of each comparison
FAST = 1  # of PNG's levels: the pictures wait in memory for whoever looks at them

_asked: dict[tuple[str, int, str, int], str] = {}  # a comparison -> its question


def compare(run: str, against: str, root: Path | None = None) -> dict:
    """Opens the question, or finds it open. ValueError where there is nothing to compare, LookupError where a run is missing."""
    folder, other = run_folder(run, root), run_folder(against, root)
    ours = _newest(folder)
    theirs = read_compared(folder, 0) if other == folder else _newest(other)
    key = (run, ours.iteration, against, theirs.iteration)
    if (open_ := _asked.get(key)) and is_open(open_):
        return {"question": open_, "pairs": len(ours.texts)}
    if ours.texts != theirs.texts:
        raise ValueError(
            f"against: '{run}' and '{against}' were not measured on the same held-out prompts, so their pictures show different "
            "things; connect the same Evaluate While Training to both"
        )
    differing = [i for i, (one, two) in enumerate(zip(ours.images, theirs.images)) if not _same(one, two)]
    if not differing:
        raise ValueError(f"against: all {len(ours.texts)} pictures are the same on both sides, so there is nothing to compare")
    digest = sha256(f"{other.name} {theirs.iteration}".encode())[:8]  # names may be long, and so may the way here
    question = _question(run, folder / VOTES / f"{ours.iteration:06d}_{digest}", ours, theirs, differing)
    alike = len(ours.texts) - len(differing)

    def finished() -> None:
        wins, losses, ties = counted(_answers(question, differing))
        try:  # the pages read the result as soon as the question is gone
            if wins + losses + ties:
                note_blind(folder, ours.iteration, {"run": against, "iteration": theirs.iteration}, wins, losses, ties + alike)
                write_report(folder)
        finally:
            take_down(question)

    question.after = finished
    _asked[key] = question.id
    put_up(question)
    return {"question": question.id, "pairs": len(ours.texts)}


def _newest(folder: Path) -> Compared:
    kept = [iteration for iteration in kept_compared(folder) if iteration]
    if not kept:
        raise ValueError(f"run: '{folder.name}' has no pictures of held-out prompts; connect Evaluate While Training to it")
    return read_compared(folder, kept[-1])


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool((one == two).all())


def _question(run: str, votes: Path, ours: Compared, theirs: Compared, differing: Sequence[int]) -> RatingRequest:
    """Row 2i is the run's picture i, row 2i + 1 the other one's; which of them is left nobody is told."""
    images = {2 * i + side: png_bytes(each.images[i], FAST) for i in differing for side, each in enumerate((ours, theirs))}
    turned = sides(len(differing), random.getrandbits(32))
    sheets = [Sheet(ours.texts[i], (2 * i + 1, 2 * i) if turn else (2 * i, 2 * i + 1)) for i, turn in zip(differing, turned)]
    random.shuffle(sheets)
    return RatingRequest(run, BEST_AND_WORST, sheets, images, VoteBook(votes), blind=True)


def _answers(question: RatingRequest, differing: Sequence[int]) -> list[tuple[int, int]]:
    """Votes on the run's picture and on the other one, of the pairs that were judged."""
    judged = {row for number, sheet in enumerate(question.sheets) if question.is_judged(number) for row in sheet.rows}
    return [(question.votes.get(2 * i, 0), question.votes.get(2 * i + 1, 0)) for i in differing if 2 * i in judged]


def report(run: str, root: Path | None = None) -> dict:
    folder = run_folder(run, root)
    return {**report_of(folder), "others": others(folder, runs_root() if root is None else root)}


def others(folder: Path, root: Path) -> list[str]:
    """The runs that were measured on the same held-out prompts, itself first; none where it has no pictures to compare."""
    texts, found = _texts(folder), [folder.name]
    for other in sorted(root.iterdir()) if texts else ():
        with suppress(ValueError, LookupError):  # no run
            if other.name != folder.name and _texts(run_folder(other.name, root)) == texts:
                found.append(other.name)
    return found if texts else []


def _texts(folder: Path) -> tuple[str, ...]:
    """The prompts of a run's newest pictures; none where there are no such pictures, or they cannot be read."""
    kept = [iteration for iteration in kept_compared(folder) if iteration]
    with suppress(ValueError):
        return compared_texts(folder, kept[-1]) if kept else ()
    return ()


def register_routes(routes) -> None:
    """Adds the two routes to a server's route table."""

    async def told(request):
        return await asyncio.to_thread(report, request.match_info["run"])

    async def begun(request):
        body = await body_of(request, against=str)
        return await asyncio.to_thread(compare, request.match_info["run"], body["against"])

    routes.get("/posttrain/runs/{run}/report")(answering(told, "the run's folder cannot be read"))
    routes.post("/posttrain/runs/{run}/blind")(answering(begun, "the run's folder cannot be changed"))


add_routes(register_routes)
