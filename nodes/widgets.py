"""Widgets read from the settings that they set, so that a default, a limit or a menu has one home: the settings' class."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

CHOICE = "choice"  # the kind of a menu, whose entries are the settings' CHOICES


def filled(widgets: Mapping[str, tuple], settings: type, renamed: Mapping[str, str] | None = None) -> dict[str, tuple]:
    """The widgets with the default, the limits and the menu entries of the fields of ``settings`` that they set.

    renamed: the field of a widget that is called otherwise. A widget of no field stays as it is, and what a widget says
    itself goes before: a slider needs an end where the setting has none.
    """
    defaults = {field.name: field.default for field in fields(settings)}
    return {name: _filled(widget, settings, defaults, (renamed or {}).get(name, name)) for name, widget in widgets.items()}


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
