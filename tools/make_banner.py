"""Icon and banner of the registry's page, drawn from what was shown: docs/images/before_after.png, which a proof's training
has written, and its curve in docs/proof.json.

    python -m tools.make_banner     writes docs/images/icon.png and docs/images/banner.png
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .environment import ROOT

PICTURES = ROOT / "docs" / "images"
TAKEN, CLAIM, SEED = "before_after.png", "awm", 0
ICON, BANNER = (400, 400), (1260, 540)  # the registry's limits: square and 400 at most; 21:9
ROWS, BEFORE, AFTER, TOP, CELL = (3, 4, 5, 7), 300, 644, 40, 80  # where tools/evaluate.py puts the pictures
INK, PAPER, RIGHT, GRID = "#16302b", "#f6f7f4", "#2a9d4a", "#c9d2cb"


def run() -> dict:
    """The training that the pictures are of, as the proof has noted it."""
    runs = json.loads((ROOT / "docs" / "proof.json").read_text(encoding="utf-8"))[CLAIM]
    return next(one for one in runs if one["seed"] == SEED)


def curve(rewards: list[float], size: tuple[int, int]) -> list[tuple[float, float]]:
    """Points of the reward, smoothed over five iterations, from corner to corner of a box."""
    means = [sum(part) / len(part) for part in (rewards[max(0, i - 2) : i + 3] for i in range(len(rewards)))]
    low, high = min(means), max(means)
    return [(number / (len(means) - 1) * size[0], (high - mean) / (high - low) * size[1]) for number, mean in enumerate(means)]


def drawn(sheet: ImageDraw.ImageDraw, rewards: list[float], box: tuple[int, int, int, int], width: int) -> None:
    left, top, right, bottom = box
    sheet.line((left, top - 10, left, bottom, right, bottom), GRID, max(2, width // 3))
    points = [(left + x, top + y) for x, y in curve(rewards, (right - left, bottom - top))]
    sheet.line(points, RIGHT, width, joint="curve")
    x, y = points[-1]
    sheet.ellipse((x - width * 1.4, y - width * 1.4, x + width * 1.4, y + width * 1.4), RIGHT)


def pictures(left: int) -> Image.Image:
    """Four of each of four prompts, out of the proof's sheet."""
    found = Image.new("RGB", (4 * CELL, len(ROWS) * CELL), PAPER)
    with Image.open(PICTURES / TAKEN) as sheet:
        for place, row in enumerate(ROWS):
            part = sheet.convert("RGB").crop((left, TOP + row * CELL, left + 4 * CELL, TOP + (row + 1) * CELL))
            found.paste(part, (0, place * CELL))
    return found


def banner() -> Image.Image:
    """Pictures before, the curve of the reward, pictures after."""
    facts, sheet = run(), Image.new("RGB", BANNER, PAPER)
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(26)
    draw.text((40, 26), "PostTrain", INK, ImageFont.load_default(64))
    draw.text((372, 58), "teach an image model what you want, inside the ComfyUI graph", INK, small)
    for x, left, when in ((40, BEFORE, "before"), (900, AFTER, "after")):
        sheet.paste(pictures(left), (x, 130))
        rate = facts[when]["strict"][0]
        draw.text((x, 470), f"{when}: {rate:.0%} as the prompt says", INK, ImageFont.load_default(22))
    drawn(draw, facts["rewards"], (420, 170, 840, 420), 9)
    draw.text((470, 470), f"reward, {facts['iterations']} iterations on a CPU", INK, ImageFont.load_default(22))
    return sheet


def icon() -> Image.Image:
    """Three balls of the demo world and the curve above them."""
    sheet = Image.new("RGB", ICON, PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, colour in ((90, "#e01b24"), (200, "#f6d32d"), (310, "#1c5bd8")):
        draw.ellipse((x - 40, 280, x + 40, 360), colour)
    drawn(draw, run()["rewards"], (50, 60, 340, 240), 16)
    return sheet


def write(folder: Path) -> None:
    icon().save(folder / "icon.png", optimize=True)
    banner().save(folder / "banner.png", optimize=True)


if __name__ == "__main__":
    write(PICTURES)
