from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.composite.ensemble import Ensemble, Member
from posttrain.rewards.folders import captioned
from posttrain.rewards.images import read_image
from posttrain.rewards.person.agreement import agreement, correlations, report, score_pairs, wilson
from posttrain.rewards.rules.colour import ColourReward

NAN = float("nan")


def grey(level: float, size: int = 8) -> torch.Tensor:
    return torch.full((1, size, 6, 3), level)


def test_a_reward_that_agrees_one_that_does_not_and_one_that_cannot_tell():
    levels = [(0.8, 0.4), (0.7, 0.3), (0.9, 0.1), (0.3, 0.4)]
    pairs = ((Prompt(f"prompt {i}"), grey(a, 8 + i), grey(b)) for i, (a, b) in enumerate(levels))
    rewards, done = [ColourReward("brightness"), ColourReward("brightness", "less"), ColourReward("saturation")], []
    scores = score_pairs(rewards, pairs, done.append)
    found = [agreement(r.info.name, s) for r, s in zip(rewards, scores)]
    assert [a.accuracy for a in found] == [0.75, 0.25, 0.5] and done == [1, 2, 3, 4]
    matrix = correlations(scores)
    assert matrix[0, 1] == pytest.approx(-1) and matrix[0, 0] == pytest.approx(1) and matrix[0, 2].isnan()
    text = "\n\n".join(report(rewards, scores))
    assert text.index("brightness: 75.0% of 4 pairs") < text.index("less brightness: 25.0%") and "may be chance" in text


def test_an_image_with_nan_pixels_fails_its_pair():
    broken = grey(0.5)
    broken[0, 0, 0, 0] = NAN
    scores = score_pairs([ColourReward("brightness")], [(Prompt("x"), broken, grey(0.1)), (Prompt("x"), grey(0.2), grey(0.1))])
    assert agreement("b", scores[0]).failed == 1 and agreement("b", scores[0]).accuracy == 1


def test_rewards_that_compare_images_see_both_of_a_pair():
    ensemble = Ensemble((ColourReward("brightness"), Member(ColourReward("contrast"), "monitor")))
    pairs = [(Prompt("x"), grey(0.8), grey(0.2)), (Prompt("y"), grey(0.1), grey(0.4)),
             (Prompt("z"), grey(0.5), torch.full((1, 9, 9, 3), 0.1))]
    found = score_pairs([ensemble, ColourReward("brightness")], pairs)
    assert found[0, :2].tolist() == [[1, -1], [-1, 1]] and found[0, 2].isnan().all()  # sizes differ
    assert agreement("ensemble", found[0]).accuracy == 0.5 and agreement("ensemble", found[0]).failed == 1
    assert not found[1].isnan().any()


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
