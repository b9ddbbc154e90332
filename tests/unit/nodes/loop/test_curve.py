"""The picture of the curve on Loop End and Train: when it is drawn, and what the host is given."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from posttrain.nodes.loop import curve as curve_module
from posttrain.nodes.loop.curve import RunCurve, sheets, theme_of_page
from posttrain.trainers.run.curve_picture import DARK, LIGHT
from posttrain.trainers.run.samples import save_samples


def session(folder, iteration: int, iterations: int = 4):
    points = [{"iteration": i, "reward_mean": float(i)} for i in range(1, iteration + 1)]
    run = SimpleNamespace(folder=folder, points=lambda: points)
    plan = SimpleNamespace(run_name="a run", iterations=iterations)
    return SimpleNamespace(run=run, plan=plan, iteration=iteration, done=iteration >= iterations)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "posttrain/a run/samples").mkdir(parents=True)
    return tmp_path / "posttrain/a run"


def test_with_each_sheet_and_no_oftener(folder):
    curve = RunCurve()
    curve._begun -= 1000
    assert curve.preview(session(folder, 1)) is None
    curve.hear("samples", iteration=1, file="x", held_out=False)
    kind, picture, _ = curve.preview(session(folder, 1))
    assert kind == "JPEG" and isinstance(picture, Image.Image)
    assert curve.preview(session(folder, 2)) is None


def test_drawing_takes_a_hundredth_of_the_time_at_most(folder):
    curve, drawn, begun = RunCurve(), 0, time.monotonic()
    for _ in range(40):
        curve.hear("samples", iteration=1, file="x", held_out=False)
        drawn += curve.preview(session(folder, 1)) is not None
    assert drawn == 1, "a run of a few milliseconds an iteration has no time for more"
    curve._begun = begun - 200 * curve._spent - 1
    assert curve.preview(session(folder, 1)) is not None


def test_the_last_one_is_the_nodes_output(folder):
    curve = RunCurve()
    curve.hear("iteration", iteration=2)
    curve.hear("message", text="", level="warning", alarm="kl", values={})
    curve.hear("message", text="", level="info")
    assert curve._alarms == [2]
    pictures, as_image = curve.last(session(folder, 4))
    (image,) = pictures["images"]
    assert image == {"filename": "curve_000004.png", "subfolder": "posttrain/a run", "type": "output"}
    with Image.open(folder / image["filename"]) as picture:
        assert picture.format == "PNG" and picture.width == 1024
        assert np.array_equal((as_image[0] * 255).round().byte().numpy(), np.asarray(picture))


def test_no_folder_or_no_room_costs_nothing_but_the_picture(folder, caplog, monkeypatch):
    pictures, image = RunCurve().last(SimpleNamespace(run=None))
    assert pictures == {} and not image.any() and image.shape[-1] == 3
    (folder / "curve_000004.png").mkdir()
    pictures, image = RunCurve().last(session(folder, 4))
    assert pictures == {} and image.any() and "could not be saved" in caplog.text
    monkeypatch.setattr(curve_module, "draw_run", lambda *_: 1 / 0)
    pictures, image = RunCurve().last(session(folder, 4))
    assert pictures == {} and not image.any() and "could not be drawn (ZeroDivisionError" in caplog.text


def test_held_out_pictures_are_compared_with_those_before_training(folder):
    where = folder / "samples"
    assert sheets(where) == (None, "", None)
    images = torch.zeros(2, 8, 8, 3)
    first, last = (save_samples(images, where, i) for i in (1, 10))
    assert sheets(where) == (first, "first", last)
    base, held_out = (save_samples(images, where, i, "held_out") for i in (0, 10))
    assert sheets(where) == (base, "before", held_out)


@pytest.mark.parametrize(
    ("settings", "theme"),
    [(None, DARK), ("{}", DARK), ("[]", DARK), ("{", DARK), (json.dumps({"Comfy.ColorPalette": "light"}), LIGHT)],
)
def test_light_where_the_page_is(settings, theme, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    if settings is not None:
        (tmp_path / "default").mkdir()
        (tmp_path / "default/comfy.settings.json").write_text(settings)
    assert theme_of_page() is theme
