"""Votes on single images in a file that only grows, one record on each line; the last vote on an image counts.

    {"image": "a.png", "prompt": "a red ball", "vote": 1}        1: up, -1: down, 0: withdrawn

Also read: "image_sha256", by which an image is known whatever its file is called; "pair_id", where two images were shown
side by side: such an image is paired with that one only; "tie", true on a vote of 0: neither of the two was better; "time",
seconds since 1970. Other keys (seed, model) are left alone.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

from .images import checked_image
from .rows import BadRow, Pair, Picture, Place, Thumb, checked_pair, checked_prompt, checked_record, raised

USES = ("thumbs", "pairs")
LATEST = 2.0**32  # seconds since 1970, in the year 2106


@dataclass(frozen=True)
class Vote:
    """A line's vote. key: by which its image is known; sha256: of the image's file, "" where the line has none."""

    name: str
    key: str
    prompt: str
    image: str
    sha256: str
    pair: str
    vote: int
    tie: bool = False
    time: float = 0.0


def holds_votes(lines: Iterable[tuple[str, str]]) -> bool:
    """Whether the first line that can be read has a vote."""
    for _, line in lines:
        try:
            return "vote" in json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
    return False


def votes_found(lines: Iterable[tuple[str, str]], place: Place, prompt: str, use: str
                ) -> Iterator[tuple[str, Callable[[], Pair | Thumb]]]:
    """Thumbs, or pairs of an image voted up and one voted down of the same prompt.

    lines: (name, text); place: what images are named from; prompt: for lines without one; use: one of USES. Bad lines and
    votes that find no opposite come as rows that raise BadRow.
    """
    last, bad = last_votes(lines, place, prompt)
    for name, error in bad:
        yield name, partial(raised, error)
    counting = [vote for vote in last if vote.vote]
    if use == "thumbs":
        for vote in counting:
            yield vote.name, partial(_thumb, vote, place)
        return
    groups: dict[tuple[str, str], list[Vote]] = {}
    for vote in counting:
        groups.setdefault((vote.prompt, vote.pair), []).append(vote)
    for votes in groups.values():
        up, down = ([vote for vote in votes if vote.vote == side] for side in (1, -1))
        for winner, loser in product(up, down):
            name = f"{winner.name} and {loser.name}"
            yield name, partial(_pair, name, winner, loser, place)
        for alone in (up if not down else down if not up else []):
            yield alone.name, partial(raised, BadRow(f"no image of its prompt was voted {'down' if up else 'up'}"))


def last_votes(lines: Iterable[tuple[str, str]], place: Place, prompt: str) -> tuple[list[Vote], list[tuple[str, BadRow]]]:
    """The last vote on each image, also a withdrawn one, in the order in which they were given; and the lines that are none."""
    last: dict[str, Vote] = {}
    bad = []
    for name, line in lines:
        try:
            vote = _vote(name, line, place, prompt)
        except BadRow as error:
            bad.append((name, error))
        else:
            last.pop(vote.key, None)
            last[vote.key] = vote
    return list(last.values()), bad


def _vote(name: str, line: str, place: Place, prompt: str) -> Vote:
    record = checked_record(line)
    image, vote = record.get("image"), record.get("vote")
    if not isinstance(image, str) or not image:
        raise BadRow("it has no \"image\"")
    if isinstance(vote, bool) or vote not in (1, -1, 0):
        raise BadRow(f"its vote {vote!r} is neither 1 (up), -1 (down) nor 0 (withdrawn)")
    sha256 = str(record.get("image_sha256") or "").lower()
    return Vote(name, sha256 or str(place.path(image)), checked_prompt(record.get("prompt"), prompt), image, sha256,
                str(record.get("pair_id") or ""), int(vote), record.get("tie") is True and vote == 0, _time(record.get("time")))


def _time(value: object) -> float:
    """Seconds since 1970 that every table can hold; 0 where it is none."""
    return float(value) if isinstance(value, (int, float)) and 0 < value < LATEST else 0.0


def picture_of(vote: Vote, place: Place) -> Picture:
    """The image that was voted on. BadRow where it is gone, or another one by now."""
    picture = Picture(vote.image, place.file(vote.image))
    if vote.sha256 and hashlib.sha256(picture.read()).hexdigest() != vote.sha256:
        raise BadRow(f"the image {vote.image} is another one than was voted on")
    return checked_image(picture)


def _thumb(vote: Vote, place: Place) -> Thumb:
    return Thumb(vote.name, vote.prompt, picture_of(vote, place), vote.vote == 1)


def _pair(name: str, winner: Vote, loser: Vote, place: Place) -> Pair:
    return checked_pair(name, winner.prompt, picture_of(winner, place), picture_of(loser, place))

