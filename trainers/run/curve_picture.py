"""A run as one picture: its curve with band and alarms, what it makes now, and beside that what the model made before.

For those who see no page of ours: apps, phones, the queue, clients of the API. Drawn with Pillow alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...rewards.base.words import brief
from .samples import sheet_tiles

if TYPE_CHECKING:
    from PIL import Image

MAIN = ("reward_mean", "accuracy", "loss")  # the first of these that a trainer reports is its curve
SPREAD, HELD_OUT = "reward_std", "held_out_reward"
WIDTH, HEIGHT, CHART = 1024, 1024, 560  # made for half that size: a phone, a thumbnail of an app
EDGE, AXIS, TEXT, SMALL, LINE = 32, 110, 34, 28, 6
MOST_POINTS = 400  # more would not be seen
ENDS = 5  # iterations that the first and the last number are means of
TILES = 2  # pictures in a row of each sheet


@dataclass(frozen=True)
class Theme:
    """Colours, each with a contrast of 4.5 to 1 or more to the ground where it is written in."""

    ground: str
    text: str
    faint: str
    grid: str
    curve: str
    band: str
    held_out: str
    alarm: str


DARK = Theme("#1f2126", "#f2f2f2", "#b4b8bf", "#3c4048", "#3fc58c", "#2b4f42", "#b794f0", "#ffb454")
LIGHT = Theme("#ffffff", "#1c1e22", "#5a5f68", "#dde0e4", "#117a4e", "#cfe9dc", "#6b3fb5", "#a85400")


@dataclass(frozen=True)
class RunShown:
    """points: lines of metrics.jsonl; alarms: the iterations of alarms; before, now: sheets of sample pictures, or None, and
    what is written over the first; iterations: how many the run shall have."""

    name: str
    iterations: int
    points: Sequence[dict]
    alarms: Sequence[int] = ()
    before: Path | None = None
    now: Path | None = None
    before_words: str = "before"
    __repr__ = brief


def draw_run(run: RunShown, theme: Theme = DARK) -> Image.Image:
    """WIDTH x HEIGHT pixels; without sheets, the chart alone."""
    from PIL import Image, ImageDraw

    sheets = [
        (words, path)
        for words, path in ((run.before_words, run.before), ("now", run.now))
        if path is not None and path.is_file()
    ]
    picture = Image.new("RGB", (WIDTH, HEIGHT if sheets else CHART), theme.ground)
    draw = ImageDraw.Draw(picture)
    key = main_number(run.points)
    _heading(draw, run, key, theme)
    _chart(draw, run, key, theme)
    for i, (words, path) in enumerate(sheets):
        _sheet(picture, draw, words, path, i, theme)
    return picture


def main_number(points: Sequence[dict]) -> str | None:
    """The number that the curve shows: a reward that never changes (best and worst, chosen by hand) tells nothing."""
    known = [key for key in MAIN if any(_finite(point.get(key)) for point in points)]
    still = len(points) > 1 and len({point.get("reward_mean") for point in points}) == 1
    return "accuracy" if still and "accuracy" in known else known[0] if known else None


def _finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _font(size: int):
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # an older Pillow, or one without FreeType
        return ImageFont.load_default()


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.4g}"


def _written(text: str) -> str:
    """What the font that comes with Pillow can write."""
    return text if text.isascii() else ""


def _heading(draw, run: RunShown, key: str | None, theme: Theme) -> None:
    done = run.points[-1]["iteration"] if run.points else 0
    draw.text((EDGE, 20), f"{_written(run.name)[:28]}   {done} of {run.iterations}".strip(), theme.faint, _font(TEXT))
    if key is None:
        return
    values = [point[key] for point in run.points if _finite(point.get(key))]
    first, last = (sum(some) / len(some) for some in (values[:ENDS], values[-ENDS:]))
    words = {"reward_mean": "reward"}.get(key, key)
    draw.text((EDGE, 64), f"{words} {_number(first)} to {_number(last)}", theme.curve, _font(TEXT))
    if any(_finite(point.get(HELD_OUT)) for point in run.points):
        draw.text((WIDTH - EDGE, 64), "held-out prompts", theme.held_out, _font(TEXT), anchor="ra")
    if run.alarms:
        draw.text(
            (WIDTH - EDGE, 20), f"{len(run.alarms)} alarm{'s' * (len(run.alarms) > 1)}", theme.alarm, _font(TEXT), anchor="ra"
        )


def _chart(draw, run: RunShown, key: str | None, theme: Theme) -> None:
    left, top, right, bottom = AXIS, 124, WIDTH - EDGE, CHART - 56
    points = [point for point in run.points if key and _finite(point.get(key))]
    points = points[:: max(1, len(points) // MOST_POINTS)]
    if not points:
        draw.text(((left + right) // 2, (top + bottom) // 2), "no numbers yet", theme.faint, _font(TEXT), anchor="mm")
        return
    spread = [float(point[SPREAD]) if key == "reward_mean" and _finite(point.get(SPREAD)) else 0.0 for point in points]
    held_out = [(point["iteration"], point[HELD_OUT]) for point in run.points if _finite(point.get(HELD_OUT))]
    values = [point[key] for point in points]
    shown = [value + sign * half for value, half in zip(values, spread) for sign in (-1, 1)] + [value for _, value in held_out]
    low, high = min(shown), max(shown)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    low, high = low - room, high + room
    first, last = points[0]["iteration"], max(points[-1]["iteration"], points[0]["iteration"] + 1)

    def at(iteration: float, value: float) -> tuple[float, float]:
        return (
            left + (iteration - first) / (last - first) * (right - left),
            bottom - (value - low) / (high - low) * (bottom - top),
        )

    for step in range(5):
        value = low + (high - low) * step / 4
        y = at(first, value)[1]
        draw.line([(left, y), (right, y)], theme.grid, 2)
        draw.text((left - 12, y), _number(value), theme.faint, _font(SMALL), anchor="rm")
    draw.text((left, bottom + 12), str(first), theme.faint, _font(SMALL))
    draw.text((right, bottom + 12), str(last), theme.faint, _font(SMALL), anchor="ra")
    steps = [point["iteration"] for point in points]
    if any(spread) and len(points) > 1:
        upper = [at(x, y + s) for x, y, s in zip(steps, values, spread)]
        lower = [at(x, y - s) for x, y, s in zip(steps, values, spread)]
        draw.polygon(upper + lower[::-1], fill=theme.band)
    for iteration in run.alarms:
        x = at(min(max(iteration, first), last), low)[0]
        draw.line([(x, top), (x, bottom)], theme.alarm, 3)
    for line, colour in (
        ([at(x, y) for x, y in zip(steps, _smooth(values))], theme.curve),
        ([at(*p) for p in held_out], theme.held_out),
    ):
        if len(line) > 1:
            draw.line(line, colour, LINE, joint="curve")
        for x, y in line[-1:]:
            draw.ellipse([x - 9, y - 9, x + 9, y + 9], fill=colour)


def _smooth(values: list[float]) -> list[float]:
    """Mean over a stretch around each point, shorter towards the ends, as the page draws it."""
    half = max(2, min(50, round(len(values) / 24)))
    return [sum(some) / len(some) for i, _ in enumerate(values)
            for reach in [min(half, i, len(values) - 1 - i)] for some in [values[i - reach : i + reach + 1]]]  # fmt: skip


def _sheet(picture, draw, words: str, path: Path, place: int, theme: Theme) -> None:
    """The first pictures of a sheet, two by two."""
    from PIL import Image, ImageOps

    side = (WIDTH - 3 * EDGE) // 2
    left, top = EDGE + place * (side + EDGE), CHART
    draw.text((left, top - 2), words, theme.text, _font(TEXT))
    top += 44
    cell = min((HEIGHT - top - 12) // TILES, side // TILES)
    for i, tile in enumerate(sheet_tiles(path, TILES * TILES)):
        larger = max(tile.size) < cell
        tile = ImageOps.contain(tile, (cell - 6, cell - 6), Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)
        picture.paste(tile, (left + i % TILES * cell, top + i // TILES * cell))
