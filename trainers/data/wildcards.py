"""Prompts as ComfyUI's page reads those of its own nodes: comments are left out, and {a|b} is a choice.

The page draws one reading when a workflow is queued. A training needs them all, and the same ones whenever it goes on: each
reading of a line is a prompt of its own.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from math import prod

from ...rewards.base.reward import Prompt
from ...rewards.base.words import brief, shown

MOST = 1_000  # readings of one line; of more, so many are drawn
MOST_BARS = 1_000  # in one line
DEEPEST = 51
# a comment begins a line or stands behind a space: the // of an address does not
COMMENT = re.compile(r"/\*.*?\*/|(?:(?<=\s)|^)//[^\r\n]*", re.DOTALL | re.MULTILINE)
ESCAPED = re.compile(r"\\([{}|])")
# {2$$a|b} and {0.5::a|b} of other programs
FOREIGN = re.compile(r"\s*\d+(\.\d+)?(-\d+)?(\$\$|::)")


@dataclass(frozen=True)
class Choice:
    """options: each a sequence of texts and choices."""

    options: tuple[tuple, ...]
    __repr__ = brief


def without_comments(text: str, name: str) -> str:
    """name: the input. ValueError where a comment has no end."""
    plain = COMMENT.sub("", text)
    if "/*" in plain:
        raise ValueError(f"{name}: '/*' begins a comment that has no end: {shown(plain[plain.index('/*'):], 60)}; close it "
                         "with '*/' on the same line")  # fmt: skip
    return plain


def every_reading(prompts: Iterable[Prompt], name: str, notes: list[str]) -> Iterator[Prompt]:
    """Each prompt once for each reading of it, the record with each. notes: takes a sentence on each line of which not all
    readings are used. ValueError names the input."""
    for prompt in prompts:
        found, count = readings(prompt.text, name)
        if count > MOST:
            notes.append(f"'{shown(prompt.text, 60)}' can be read in {min(count, 10**15):,} ways; {len(found):,} are drawn.")
        yield from (prompt if text == prompt.text else replace(prompt, text=text) for text in found)


def readings(line: str, name: str) -> tuple[list[str], int]:
    """-> the different readings of a line with choices, and how many there are to draw from: all up to MOST, of more MOST drawn
    by the line itself. [] for a line that is empty without its comments. ValueError names the input."""
    if line.count("|") > MOST_BARS:
        raise ValueError(
            f"{name}: {line.count('|'):,} choices are too many for one line: {shown(line, 60)}; write {MOST_BARS:,} at most"
        )
    parts = _parsed(without_comments(line, name).strip(), name)
    count = _count(parts)
    found = _all(parts) if count <= MOST else _drawn(parts, line)
    plain = (" ".join(ESCAPED.sub(r"\1", text).split()) if count > 1 else ESCAPED.sub(r"\1", text) for text in found)
    return list(dict.fromkeys(text for text in plain if text)), count


def _parsed(text: str, name: str) -> tuple:
    """The parts of a text. Braces without a | between them, and braces without their other half, are text."""
    levels: list[list[list]] = [[[]]]  # the options so far of each open brace; the outermost is no brace and has one
    for piece in re.findall(r"\\[{}|]|[{}|]|[^\\{}|]+|\\", text):
        level = levels[-1]
        if piece == "{":
            levels.append([[]])
            if len(levels) > DEEPEST:
                raise ValueError(f"{name}: more than {DEEPEST - 1} braces are open in {shown(text, 60)}; close some")
        elif piece == "|" and len(levels) > 1:
            level.append([])
        elif piece == "}" and len(levels) > 1:
            levels.pop()
            levels[-1][-1] += _closed(level, name)
        else:
            level[-1].append(piece)
    while len(levels) > 1:  # never closed
        open_ = levels.pop()
        levels[-1][-1] += ["{", *_joined(open_)]
    return tuple(levels[0][0])


def _closed(options: list[list], name: str) -> list:
    if len(options) == 1:
        return ["{", *options[0], "}"]
    for option in options:
        text = "".join(part for part in option if isinstance(part, str))
        if FOREIGN.match(text):
            raise ValueError(f"{name}: '{{{shown(text, 60)}' is another program's way to choose; write the choices as {{a|b}}, "
                             "or \\{ for a brace")  # fmt: skip
    return [Choice(tuple(tuple(option) for option in options))]


def _joined(options: list[list]) -> list:
    parts = list(options[0])
    for option in options[1:]:
        parts += ["|", *option]
    return parts


def _count(parts: tuple) -> int:
    return prod(sum(_count(option) for option in part.options) for part in parts if isinstance(part, Choice))


def _all(parts: tuple) -> Iterator[str]:
    each = [[part] if isinstance(part, str) else [text for option in part.options for text in _all(option)] for part in parts]
    return map("".join, product(*each))


def _drawn(parts: tuple, line: str) -> list[str]:
    choose = random.Random(hashlib.sha256(line.encode("utf-8", "surrogatepass")).digest())
    found: dict[str, None] = {}
    for text in islice(iter(lambda: _one(parts, choose), None), 20 * MOST):
        found[text] = None
        if len(found) == MOST:
            break
    return list(found)


def _one(parts: tuple, choose: random.Random) -> str:
    return "".join(part if isinstance(part, str) else _one(choose.choice(part.options), choose) for part in parts)
