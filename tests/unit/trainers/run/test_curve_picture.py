"""A run as one picture: what is in it, in both themes, and what it costs."""

from __future__ import annotations

import time

import pytest
import torch
from PIL import ImageColor
from posttrain.trainers.run.curve_picture import (
    CHART,
    DARK,
    HEIGHT,
    LIGHT,
    SMALL,
    TEXT,
    WIDTH,
    RunShown,
    Theme,
    draw_run,
    main_number,
)
from posttrain.trainers.run.samples import save_samples, sheet_tiles

THEMES = pytest.mark.parametrize("theme", [DARK, LIGHT], ids=["dark", "light"])
POINTS = [{"iteration": i, "reward_mean": i / 40, "reward_std": 0.1} for i in range(1, 41)]


def light(colour: str) -> float:
    """WCAG's relative luminance."""
    parts = [c / 255 for c in ImageColor.getrgb(colour)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(colour: str, other: str) -> float:
    dark, bright = sorted([light(colour), light(other)])
    return (bright + 0.05) / (dark + 0.05)


def count(picture, colour: str) -> int:
    """Pixels of exactly this colour."""
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(-1, 3)
    return int((pixels == torch.tensor(ImageColor.getrgb(colour), dtype=torch.uint8)).all(1).sum())


@THEMES
def test_everything_that_is_written_can_be_read(theme: Theme):
    for name in ("text", "faint", "curve", "held_out", "alarm"):
        assert contrast(getattr(theme, name), theme.ground) >= 4.5, name


@THEMES
def test_words_are_still_words_at_512_pixels(theme: Theme):
    """Made half as large as a browser does it: letters of a height of 12 pixels and more keep a contrast of 4.5 to 1."""
    assert min(TEXT, SMALL) * 512 / WIDTH >= 12
    small = draw_run(RunShown("a run", 40, POINTS), theme).resize((512, CHART // 2)).convert("RGB")
    for name, rows in (("curve", range(32, 49)), ("faint", range(10, 27)), ("faint", range(CHART // 2 - 34, CHART // 2))):
        written = [small.getpixel((x, y)) for y in rows for x in range(512)]
        ratios = sorted(contrast("#{:02x}{:02x}{:02x}".format(*pixel), theme.ground) for pixel in written)
        assert ratios[-20] >= 4.5, name


@THEMES
def test_what_is_known_is_drawn_and_nothing_else(theme: Theme):
    bare = draw_run(
        RunShown("a run", 40, [{"iteration": p["iteration"], "reward_mean": p["reward_mean"]} for p in POINTS]), theme
    )
    assert bare.size == (WIDTH, CHART) and count(bare, theme.curve) > 1000
    assert count(bare, theme.band) == count(bare, theme.held_out) == count(bare, theme.alarm) == 0
    whole = draw_run(RunShown("a run", 40, [*POINTS[:-1], POINTS[-1] | {"held_out_reward": 0.5}], alarms=[20]), theme)
    assert count(whole, theme.band) > 5000 and count(whole, theme.held_out) > 100 and count(whole, theme.alarm) > 500


def test_a_rising_curve_rises():
    picture = draw_run(RunShown("", 40, POINTS)).load()
    colour = ImageColor.getrgb(DARK.curve)
    heights = [next(y for y in range(130, CHART) if picture[x, y] == colour) for x in (200, 500, 800)]
    assert heights == sorted(heights, reverse=True) and heights[0] - heights[2] > 100


def test_pictures_stand_beside_those_of_before(tmp_path):
    red, blue = torch.zeros(5, 8, 8, 3), torch.zeros(5, 8, 8, 3)
    red[..., 0], blue[..., 2] = 1.0, 1.0
    before, now = save_samples(red, tmp_path, 0, "held_out"), save_samples(blue, tmp_path, 9, "held_out")
    picture = draw_run(RunShown("a run", 40, POINTS, before=before, now=now))
    assert picture.size == (WIDTH, HEIGHT)
    left, right = picture.getpixel((120, CHART + 140)), picture.getpixel((WIDTH // 2 + 140, CHART + 140))
    assert left[0] > 200 > left[2] and right[2] > 200 > right[0]


@pytest.mark.parametrize(("number", "places"), [(1, 1), (2, 2), (3, 4), (5, 4), (40, 4)])
def test_a_sheet_says_which_pictures_it_holds(number, places, tmp_path):
    images = torch.linspace(0, 1, number).view(-1, 1, 1, 1).expand(-1, 100, 150, 3)
    tiles = sheet_tiles(save_samples(images, tmp_path, 1), 4)
    assert len(tiles) == places, "of three, one place is empty"
    for tile, image in zip(tiles, images):
        assert abs(tile.getpixel((tile.width // 2, tile.height // 2))[0] - float(image[0, 0, 0]) * 255) < 8


@pytest.mark.parametrize(
    ("points", "key"),
    [
        ([], None),
        ([{"iteration": 1, "loss": 1.0}], "loss"),
        ([{"iteration": 1, "loss": 1.0, "reward_mean": 2.0}], "reward_mean"),
        ([{"iteration": i, "accuracy": 0.5, "reward_mean": 0.0} for i in (1, 2)], "accuracy"),
        ([{"iteration": 1, "reward_mean": float("nan"), "loss": 0.5}], "loss"),
    ],
)
def test_the_number_that_is_shown(points, key):
    assert main_number(points) == key
    draw_run(RunShown("名", 1, points))


def test_a_long_run_costs_little_more():
    def seconds(n: int) -> float:
        points = [{"iteration": i, "reward_mean": (i * 7919 % 100) / 100, "reward_std": 0.1} for i in range(1, n + 1)]
        draw_run(RunShown("a run", n, points))  # warm
        begun = time.process_time()
        draw_run(RunShown("a run", n, points))
        return time.process_time() - begun

    assert seconds(20_000) < 10 * seconds(100) + 0.2
