"""Layer patterns: regular expressions that end. Python's can take for ever, and nothing stops them, not even Cancel."""

from __future__ import annotations

import re

from ...rewards.base.words import shown

LONGEST = 300  # characters
MOST_REPEATS, MOST_OPEN = 12, 4  # *, +, ? and {}; of them those without an end
PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[*+?]|\{\d*,?\d*\}|.", re.DOTALL)
REPEAT = re.compile(r"[*+?]|\{\d*,?\d*\}")


def checked_pattern(pattern: str) -> str:
    """The pattern. ValueError where it is none, or one whose search could take for ever on a name.

    What is repeated must be one character or one set of them, so that there are few ways to read a name: groups may be
    chosen from (``(a|b)``), and be there or not (``(a)?``), but not be repeated.
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"layer_pattern: {len(pattern):,} characters are too many; {LONGEST} are the most")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"layer_pattern: '{shown(pattern)}' is not a regular expression ({shown(str(error))})") from None
    repeats = open_ones = 0
    before = ""
    for piece in PIECE.findall(pattern):
        if REPEAT.fullmatch(piece) and not (piece == "?" and (before == "(" or REPEAT.fullmatch(before))):
            repeats, open_ones = repeats + 1, open_ones + (piece in "*+" or "," in piece)
            if before == ")" and piece != "?" or re.fullmatch(r"\\[1-9]", before):
                raise ValueError(
                    f"layer_pattern: '{shown(pattern)}' repeats a group, which can take for ever; repeat single "
                    "characters, as in 'blocks\\.[0-9]+\\.attn'"
                )
        before = piece
    if repeats > MOST_REPEATS or open_ones > MOST_OPEN:
        raise ValueError(
            f"layer_pattern: '{shown(pattern)}' has {repeats} repeats, which can take for ever; use at most "
            f"{MOST_OPEN} of * and +, and {MOST_REPEATS} in all"
        )
    return pattern
