"""Widgets read from the settings that they set, so that a default, a limit or a menu has one home: the settings' class."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

RECOMMENDED = " -1: the recommended number for your model."
CHOICE = "choice"  # the kind of a menu, whose entries are the settings' CHOICES


def filled(widgets: Mapping[str, tuple], settings: type, renamed: Mapping[str, str] | None = None) -> dict[str, tuple]:
    """The widgets with the default, the limits and the menu entries of the fields of ``settings`` that they set.

    renamed: the field of a widget that is called otherwise. A widget of no field stays as it is, and what a widget says
    itself goes before: a slider needs an end where the setting has none.
    """
    defaults = {field.name: field.default for field in fields(settings)}
    return {name: _filled(widget, settings, defaults, (renamed or {}).get(name, name)) for name, widget in widgets.items()}


def left_open(widget: tuple) -> tuple:
    """A number's widget that begins with -1, the recommended number; a menu's that begins with "recommended"."""
    kind, options = widget
    if kind in ("INT", "FLOAT"):
        least = -1 if kind == "INT" else -1.0
        return kind, {**options, "default": least, "min": least, "tooltip": options["tooltip"] + RECOMMENDED}
    words = options["tooltip"] + " recommended: what suits your model."
    return (*kind, "recommended"), {**options, "default": "recommended", "tooltip": words}


def _filled(widget: tuple, settings: type, defaults: Mapping[str, object], field: str) -> tuple:
    kind, options = widget
    if field not in defaults:
        return widget
    found = {} if defaults[field] is None else {"default": defaults[field]}
    if kind == CHOICE:
        kind = settings.CHOICES[field]
    elif kind in ("INT", "FLOAT") and (limits := getattr(settings, "LIMITS", {}).get(field)):
        found |= limits.ends()
    return kind, found | options
