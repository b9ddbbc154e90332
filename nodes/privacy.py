"""What is told to others without what concerns nobody: where files lie on this machine, and whom it asks.

A LoRA is shared, and answers of routes are read by whoever reaches the server.
"""

from __future__ import annotations

import re

NOTES = ("Note", "MarkdownNote")  # of ComfyUI's page: text that its author wrote for others
ADDRESS = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s\"'<>]+")
# a whole value (spaces and all), or within a sentence what has at least a folder in it
WHOLE_PATH = re.compile(r"(?:~[\w-]*)?[/\\][^\n]*|[A-Za-z]:[\\/][^\n]*")
PATH = re.compile(r"(?<![\w.:/\\~])(?:(?:~[\w-]*)?/(?:[^\s/\"']+/)+[^\s/\"',;)]*|(?:[A-Za-z]:[\\/]|\\\\)[^\s\"',;)]+)")


def without_places(text: str) -> str:
    """A text in which each full path is its last part alone."""
    if WHOLE_PATH.fullmatch(text.strip()):
        return _last(text.strip())
    return PATH.sub(lambda found: _last(found[0]), text)


def for_others(value, inside_note: bool = False):
    """A workflow or a prompt, as JSON, without full paths and without addresses; those in notes stay."""
    if isinstance(value, str):
        return without_places(value if inside_note else ADDRESS.sub("(an address)", value))
    if isinstance(value, dict):
        note = inside_note or value.get("type") in NOTES
        return {key: for_others(each, note) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [for_others(each, inside_note) for each in value]
    return value


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
