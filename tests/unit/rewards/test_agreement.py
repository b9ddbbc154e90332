from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image

from posttrain.rewards.agreement import agreement, correlations, report, score_pairs, wilson
from posttrain.rewards.colour import ColourReward
from posttrain.rewards.folders import captioned, read_image, read_pairs

NAN = float("nan")


def paint(path, level: int, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level,) * 3).save(path)


def test_a_reward_that_agrees_one_that_does_not_and_one_that_cannot_tell(tmp_path):
    for i, (win, lose) in enumerate([(200, 100), (180, 90), (250, 10), (99, 100)]):
        paint(tmp_path / "win" / f"{i}.png", win, (8 + i, 6))
        paint(tmp_path / "lose" / f"{i}.png", lose)
        (tmp_path / "win" / f"{i}.txt").write_text(f"prompt {i}\n")
    pairs = read_pairs(tmp_path)
    assert [p.prompt.text for p in pairs] == [f"prompt {i}" for i in range(4)]
    rewards = [ColourReward("brightness"), ColourReward("brightness", "less"), ColourReward("saturation")]
    done = []
    scores = score_pairs(rewards, pairs, done.append)
    found = [agreement(r.info.name, s) for r, s in zip(rewards, scores)]
    assert [a.accuracy for a in found] == [0.75, 0.25, 0.5] and done == [1, 2, 3, 4]
    matrix = correlations(scores)
    assert matrix[0, 1] == pytest.approx(-1) and matrix[0, 0] == pytest.approx(1) and matrix[0, 2].isnan()
    text = report(rewards, scores)
    assert text.index("brightness: 75.0% of 4 pairs") < text.index("less brightness: 25.0%") and "may be chance" in text


def test_wilson_interval_is_the_published_one():
    low, high = wilson(8, 10)  # 0.4902, 0.9433
    assert low == pytest.approx(0.4902, abs=1e-4) and high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 0) == (0, 1) and wilson(5, 5)[1] == 1


def test_failed_pairs_are_counted_not_guessed():
    a = agreement("x", torch.tensor([[1.0, 0.0], [NAN, 0.0], [2.0, 2.0]]))
    assert (a.pairs, a.failed, a.accuracy) == (2, 1, 0.75)
    assert math.isnan(agreement("x", torch.full((2, 2), NAN)).accuracy)


def test_correlation_ignores_offsets_between_prompts():
    torch.manual_seed(0)
    gaps = torch.randn(50)
    offsets = torch.randn(2, 50, 1) * 100
    pair = torch.stack([gaps / 2, -gaps / 2], -1)
    scores = torch.stack([pair, 3 * pair]).double() + offsets
    assert correlations(scores)[0, 1] == pytest.approx(1, abs=1e-4)


def test_jsonl_pairs(tmp_path):
    paint(tmp_path / "a.png", 10)
    paint(tmp_path / "b.png", 20)
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "x", "chosen": "a.png", "rejected": "b.png"}) + "\n\n")
    assert read_pairs(file)[0].chosen == tmp_path / "a.png"
    for text, message in (("{", "line 1 must be JSON"), ('{"prompt": "x"}', "line 1 must be JSON"), ("", "holds none"),
                          ('{"prompt": "x", "chosen": "a.png", "rejected": "c.png"}', "c.png.* does not exist")):
        file.write_text(text)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_pairs(file)
    with pytest.raises(FileNotFoundError, match="subfolders win and lose"):
        read_pairs(tmp_path)


def test_images_of_every_kind(tmp_path):
    Image.new("L", (3, 2), 128).save(tmp_path / "grey.png")
    Image.new("RGBA", (3, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("P", (3, 2), 0).save(tmp_path / "palette.png")
    (tmp_path / "grey.txt").write_text("a grey thing")
    found = dict(captioned(tmp_path, "fallback"))
    assert [p.name for p in found] == ["clear.png", "grey.png", "palette.png"]
    assert found[tmp_path / "grey.png"].text == "a grey thing" and found[tmp_path / "clear.png"].text == "fallback"
    assert read_image(tmp_path / "grey.png").shape == (1, 2, 3, 3) and (read_image(tmp_path / "clear.png") == 1).all()
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.png cannot be read"):
        read_image(tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(captioned(tmp_path / "nowhere"))
