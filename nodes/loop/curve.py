"""The curve as a picture: on Loop End and Train, for apps, the queue, phones and clients that run nothing of our page.

While a run trains it is the node's preview, renewed with each sheet of samples; at the end it is the node's output.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from ...trainers.run.curve_picture import DARK, LIGHT, RunShown, Theme, draw_run

SHARE = 0.01  # of a run's time that drawing may take, besides the last picture
FILE = "curve_{:06d}.png"


class RunCurve:
    """``hear`` is told what a session tells.

    preview(session): the host's triple for a node's preview where a new sheet of samples is there and there is time to draw it,
    else None. last(session): the last picture, saved, as the host wants a node's pictures, and as an IMAGE.
    """

    def __init__(self):
        self._alarms: list[int] = []
        self._iteration = 0
        self._due = False
        self._spent, self._begun = 0.0, time.monotonic()
        self._theme: Theme | None = None

    def hear(self, kind: str, **data) -> None:
        if kind == "iteration":
            self._iteration = data["iteration"]
        elif kind == "samples":
            self._due = True
        elif kind == "message" and "alarm" in data:
            self._alarms.append(self._iteration)

    def preview(self, session):
        now = time.monotonic()
        if not self._due or session.done or self._spent > SHARE * (now - self._begun):
            return None
        self._due = False
        picture = self._draw(session)
        self._spent += time.monotonic() - now
        return None if picture is None else ("JPEG", picture, None)

    def last(self, session) -> tuple[dict, object]:
        """({"images": [...]}, [1, H, W, 3]): the first is empty where the loop has no folder of its own or the disk takes no
        picture, the second then black."""
        picture = self._draw(session)
        return ({} if picture is None else _saved(picture, session)), _as_image(picture)

    def _draw(self, session):
        if session.run is None:
            return None
        self._theme = self._theme or theme_of_page()
        before, words, now = sheets(Path(session.run.folder) / "samples")
        shown = RunShown(session.plan.run_name, session.plan.iterations, session.run.points(), self._alarms, before, now, words)
        try:
            return draw_run(shown, self._theme)
        except Exception as error:  # a picture must not cost the training
            logging.warning("PostTrain: the picture of the curve could not be drawn (%s: %s)", type(error).__name__, error)
            return None


def _saved(picture, session) -> dict:
    folder = Path(session.run.folder)
    file = folder / FILE.format(session.iteration)
    try:
        picture.save(file, "PNG")
    except OSError as error:
        logging.warning("PostTrain: the picture of the curve could not be saved (%s)", error.strerror or error)
        return {}
    return {"images": [{"filename": file.name, "subfolder": f"{folder.parent.name}/{folder.name}", "type": "output"}]}


def _as_image(picture):
    import numpy as np
    import torch

    if picture is None:
        return torch.zeros(1, 64, 64, 3)
    return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)[None]


def sheets(folder: Path) -> tuple[Path | None, str, Path | None]:
    """The sheet to compare with, what it is called, and the newest: of held-out prompts where there are such, whose first is
    the model before training; else of the run's own pictures."""
    for kind, words in (("held_out", "before"), ("iteration", "first")):
        found = sorted(path for path in folder.glob(f"{kind}_*") if path.suffix != ".tmp")
        if found:
            return (found[0] if len(found) > 1 else None), words, found[-1]
    return None, "", None


def theme_of_page() -> Theme:
    """Light where the user's page is."""
    import folder_paths

    file = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        return LIGHT if json.loads(file.read_text(encoding="utf-8")).get("Comfy.ColorPalette") == "light" else DARK
    except (OSError, ValueError, AttributeError):
        return DARK
