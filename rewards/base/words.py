"""How values stand in sentences: short, on one line, and of characters that every log and every file can hold."""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized
from dataclasses import fields

LONGEST = 120  # characters of a value in a sentence
MOST_REPR = 300
# control characters, which end lines and steer terminals, and halves of characters, which no file can hold
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
HALVES = re.compile(r"[\ud800-\udfff]")
NEW_LINE = re.compile(r"\r\n|\n|\r")


def unwritable(text: str) -> bool:
    """Whether a text holds what no name may hold."""
    return bool(UNWRITABLE.search(text))


def holds_half_characters(text: str) -> bool:
    """Whether a text holds halves of characters (surrogates), which no encoder, file or log takes."""
    return bool(HALVES.search(text))


def shown(value: object, most: int = LONGEST) -> str:
    """A value as a sentence may quote it: at most ``most`` characters, what cannot be written as \\x1f."""
    text = value if isinstance(value, str) else type(value).__name__ if _is_large(value) else repr(value)
    text = UNWRITABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text[: most + 1])
    return text if len(text) <= most else f"{text[: most - 3]}..."


def from_group(*names: str) -> str:
    """Which groups of pyproject.toml bring the packages that a message asks for."""
    quoted = " and ".join(f'"{name}"' for name in names)
    return f"(the pack's group{'s' if len(names) > 1 else ''} {quoted}, see Optional packages in its README)"


def lines_of(text: str) -> list[str]:
    """The lines of a text, ended by a line feed, a carriage return or both: str.splitlines also cuts at characters that
    stand inside of prompts and of JSON (U+0085, U+2028, U+2029 and others)."""
    return NEW_LINE.split(text)


def _is_large(value: object) -> bool:
    return not isinstance(value, (bool, int, float, type(None))) and not (isinstance(value, Sequence) and len(value) <= 8)


def brief(self) -> str:
    """``__repr__`` of a dataclass that holds much: its fields, tensors by type and shape, collections by their length, other
    objects by their class. The host writes the repr of every input of a node that fails into its history."""
    told = ", ".join(f"{each.name}={_briefly(getattr(self, each.name, None))}" for each in fields(self) if each.repr)
    return shown(f"{type(self).__name__}({told})", MOST_REPR)


def _briefly(value: object) -> str:
    if isinstance(value, (bool, int, float, type(None))):
        return shown(repr(value) if not isinstance(value, int) or value.bit_length() < 200 else "a huge number")
    if isinstance(value, str):
        return repr(shown(value, 40))
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Sized):
        return f"{type(value).__name__} of {len(value)}"
    return value.__name__ if isinstance(value, type) else type(value).__name__
