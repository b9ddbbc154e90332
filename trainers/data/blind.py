"""Two things compared blind: which side each is shown on, and what the answers say about which of the two is better."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import NamedTuple

from ...rewards.person.agreement import wilson

BETTER, WORSE, OPEN = "better", "worse", "open"


class Share(NamedTuple):
    """Of the comparisons that the first of the two won, a tie counted as half of one; low and high: the 95 % interval."""

    share: float
    low: float
    high: float


class Strength(NamedTuple):
    """By how much the first is stronger than the second, in Bradley and Terry's units; low and high: the 95 % interval.

    The chance that the first wins is 1 / (1 + exp(-strength)): 0 is even, 1.1 is three of four. Infinite where one side
    won everything; an end of the interval is too where the answers set no limit there.
    """

    strength: float
    low: float
    high: float


def win_share(wins: int, losses: int, ties: int = 0) -> Share:
    """(1/2, 0, 1) where nothing was compared. Ties make the true spread smaller than Wilson's interval, never larger."""
    if min(wins, losses, ties) < 0:
        raise ValueError(f"wins, losses and ties are counts, none of which is below 0: {wins}, {losses}, {ties}")
    count, won = wins + losses + ties, wins + ties / 2
    return Share(won / count if count else 0.5, *wilson(won, count))


def bradley_terry(wins: int, losses: int, ties: int = 0) -> Strength:
    """The most likely strength, of the wins of the first over the second:

        wins log s(b) + losses log s(-b) + ties (log s(b) + log s(-b)) / 2 -> max,    s(b) = 1 / (1 + exp(-b))

    For two that is the log odds of the share of wins, and the interval that of the share (Wilson's score interval, which
    holds its 95 % with few answers, where one of b itself does not).
    """
    return Strength(*(_log_odds(share) for share in win_share(wins, losses, ties)))


def _log_odds(share: float) -> float:
    if share in (0, 1):
        return math.inf if share else -math.inf
    return math.log(share / (1 - share))


def sides(n: int, seed: int) -> list[bool]:
    """For n comparisons whether the two change places (the first is on the right): in half of them, in a random order.

    Half, not each by a coin of its own, so that a rater who prefers one side moves no result. The odd one is by chance.
    """
    chance = random.Random(seed)
    first = chance.randint(0, 1)
    turned = [number % 2 == first for number in range(n)]
    chance.shuffle(turned)
    return turned


def verdict(wins: int, losses: int, ties: int = 0) -> str:
    """What may be said of the first."""
    found = win_share(wins, losses, ties)
    return beyond(found.low, found.high, 0.5)


def beyond(low: float, high: float, even: float) -> str:
    """BETTER or WORSE where the interval leaves out what is neither, else OPEN."""
    return BETTER if low > even else WORSE if high < even else OPEN


def counted(pairs: Iterable[tuple[float, float]]) -> tuple[int, int, int]:
    """Votes or scores (of the first, of the second) of each pair -> wins, losses, ties. Both alike, "both bad" too, is a tie."""
    found = [(first > second) - (first < second) for first, second in pairs]
    return found.count(1), found.count(-1), found.count(0)
