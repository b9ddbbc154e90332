"""Example pictures on disk: the right ones are right, the wrong ones wrong, and readable as preference data."""
from __future__ import annotations

import pytest
from posttrain.rewards.base.reward import Prompt
from posttrain.toy.pictures import LAYOUTS, write_pictures
from posttrain.toy.verifier import ToyVerifier
from posttrain.toy.world import HELD_OUT, caption, split
from posttrain.trainers.data.folders import read_folder
from posttrain.trainers.data.images import Frame, pixels

SPECS = {caption(s): s for s in split(held_out=False)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_right_pictures_pass_and_wrong_ones_fail(tmp_path, layout):
    assert write_pictures(tmp_path, layout, 90) == 180
    data = read_folder(tmp_path, 1000)
    assert len(data.rows) == (90 if layout == "pairs" else 180) and not data.skipped
    judge, frame = ToyVerifier("strict"), Frame(24, 24, "must have this size")
    for row in data.rows:
        right = [True, False] if layout == "pairs" else [row.good]
        scores = judge(pixels(row.pictures, frame), [Prompt(row.prompt, SPECS[row.prompt])] * len(right))
        assert scores.tolist() == [float(value) for value in right]
    assert not {row.prompt for row in data.rows} & HELD_OUT


def test_the_same_pictures_every_time_and_a_users_are_left_alone(tmp_path):
    write_pictures(tmp_path / "a", "pairs", 3)
    write_pictures(tmp_path / "b", "pairs", 3)
    files = sorted((tmp_path / "a").rglob("*.*"))
    assert len(files) == 12
    assert all(f.read_bytes() == (tmp_path / "b" / f.relative_to(tmp_path / "a")).read_bytes() for f in files)
    (tmp_path / "a" / "win" / "0001.png").write_bytes(b"mine")
    assert write_pictures(tmp_path / "a", "pairs", 4) == 2
    assert (tmp_path / "a" / "win" / "0001.png").read_bytes() == b"mine"
