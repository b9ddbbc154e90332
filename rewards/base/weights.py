"""Prompts as the text encoder reads them, "a (red:1.3) cat", and as everybody else does: "a red cat"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from .prompt import Prompt

# none: the minutes of a time, the second half of 16:9, a port
WEIGHT = re.compile(r"\s*[+-]?(\d{1,2}|\d{0,2}\.\d+|\d{1,2}\.)\s*")
QUOTES = {'"': '"', "\u201c": "\u201d"}
BEFORE_A_QUOTE = " \t\n([{,;:-"  # and not a number: 12" is a length
HIDDEN = {"\\(": "\0l", "\\)": "\0r"}


def plain_words(prompt: str) -> str:
    """A prompt without ComfyUI's weights: (x), ((x)) and (x:1.2) as x, and \\( as (. What stands in double quotes, which is to
    be written into the picture, and a bracket without its other half stay as they are."""
    if "(" not in prompt and ")" not in prompt:
        return prompt
    for written, hidden in HIDDEN.items():
        prompt = prompt.replace(written, hidden)
    done: list[str] = []
    opened: list[int] = []
    ends, at = _ends_of_quotes(prompt), 0
    while at < len(prompt):
        end = ends.get(at, at + 1)
        part, at = prompt[at:end], end
        if part == ")" and opened:
            start = opened.pop()
            done[start:] = [_without_weight("".join(done[start + 1 :]))]
            continue
        if part == "(":
            opened.append(len(done))
        done.append(part)
    return "".join(done).replace("\0l", "(").replace("\0r", ")")


def _without_weight(text: str) -> str:
    words, _, number = text.rpartition(":")
    minutes = words[-1:].isdigit() and "." not in number
    return words if words.strip() and WEIGHT.fullmatch(number) and not minutes else text


def _ends_of_quotes(text: str) -> dict[int, int]:
    """Where each quotation begins -> behind its end."""
    found, at = {}, 0
    while at < len(text):
        begins = text[at] in QUOTES and (at == 0 or text[at - 1] in BEFORE_A_QUOTE)
        end = text.find(QUOTES[text[at]], at + 1) if begins else -1
        if end > 0:
            found[at] = end + 1
            at = end
        at += 1
    return found


def in_plain_words(prompts: Sequence[Prompt]) -> list[Prompt]:
    """As rewards see them: without the weights that only a text encoder understands. Done once, however often it is asked."""
    found: dict[str, str] = {}
    for prompt in prompts:
        if prompt.written is None and prompt.text not in found:
            found[prompt.text] = plain_words(prompt.text)
    return [
        p if p.written is not None or found[p.text] == p.text else replace(p, text=found[p.text], written=p.text)
        for p in prompts
    ]


def as_written(prompt: Prompt) -> str:
    return prompt.text if prompt.written is None else prompt.written
