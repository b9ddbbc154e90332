"""Score Folder and the agreement node on pictures on disk."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from posttrain.nodes.rewards import composite, simple, tools
from posttrain.rewards.base.reward import Prompt, RewardInfo

pytestmark = pytest.mark.usefixtures("opened")


class NeedsRule:
    info = RewardInfo("rule", 0, 1, True, False, "")

    def __call__(self, images, prompts):
        return torch.tensor([1.0 if p.spec else 0.0 for p in prompts])


def painted(path, level):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (level,) * 3).save(path)


def test_score_folder_and_agreement_nodes(tmp_path):
    from posttrain.trainers.data.folders import read_folder

    bright, = simple.PTRewardColour().run("brightness", "more", 0.0, 1.0)
    for i, (win, lose) in enumerate([(200, 100), (150, 100), (90, 100)]):
        painted(tmp_path / "pairs" / "win" / f"{i}.png", win)
        painted(tmp_path / "pairs" / "lose" / f"{i}.png", lose)
    (tmp_path / "pairs" / "win" / "0.txt").write_text("a bright thing")
    found = tools.PTScoreFolder().run(str(tmp_path / "pairs" / "win"), bright, "fallback", 2)
    lines = [line.split("\t") for line in found["result"][2].splitlines()]
    assert [line[0] for line in lines] == ["image", "0.png", "1.png"] and lines[1][-1] == "a bright thing"
    assert found["result"][1] == pytest.approx((200 + 150) / 510, abs=1e-5)
    text, = tools.PTRewardAgreement().run(read_folder(tmp_path / "pairs", 10, "x"), 10, reward_2=bright)["result"]
    assert "brightness: 66.7% of 3 pairs" in text
    with pytest.raises(ValueError, match="reward_1: connect"):
        tools.PTRewardAgreement().run(read_folder(tmp_path / "pairs", 10, "x"), 10)


def test_score_folder_hands_out_the_best_and_the_worst(tmp_path):
    bright, = simple.PTRewardColour().run("brightness", "more", 0.0, 1.0)
    for i, level in enumerate((10, 200, 90, 150)):
        painted(tmp_path / ("deep" if i % 2 else ".") / f"{i}.png", level)
    found = tools.PTScoreFolder().run(str(tmp_path), bright, "", 10, shown=3)
    _, _, table, best, worst = found["result"]
    assert [line.split("\t")[0] for line in table.splitlines()[1:]] == ["0.png", "2.png", "deep/1.png", "deep/3.png"]
    middle = best.shape[2] // 2
    assert best.shape == worst.shape == (3, *best.shape[1:])
    assert [round(v) for v in (best[:, middle, middle, 0] * 255).tolist()] == [200, 150, 90]
    assert [round(v) for v in (worst[:, middle, middle, 0] * 255).tolist()] == [10, 90, 150]
    assert "range 0 .. 1; looks at the image alone; has a gradient" in found["ui"]["text"][2]


def test_score_folder_refuses_what_compares_images_and_knows_rules(tmp_path):
    bright, = simple.PTRewardColour().run("brightness", "more", 0.0, 1.0)
    painted(tmp_path / "0.png", 10)
    (tmp_path / "0.txt").write_text("two cats")
    ensemble = composite.PTRewardEnsemble().run("weighted mean", 1.0, False, reward_1=bright)["result"][0]
    inside = (simple.PTRewardSum().run(reward_1=ensemble)[0], composite.PTRewardFormula().run("a", a=ensemble)[0])
    for reward in (ensemble, *inside):
        with pytest.raises(ValueError, match="choose the scale 'raw' or 'calibrated'"):
            tools.PTScoreFolder().run(str(tmp_path), reward, "", 10)
    raw, = composite.PTRewardMember().run(bright, "trained", 1.0, "raw", 0.5, 0.1)
    alone = composite.PTRewardEnsemble().run("weighted mean", 1.0, False, reward_1=raw)["result"][0]
    assert tools.PTScoreFolder().run(str(tmp_path), alone, "", 10)["result"][1] == pytest.approx(10 / 255)
    prompts = SimpleNamespace(prompts=(Prompt("two cats", {"n": 2}),))
    assert tools.PTScoreFolder().run(str(tmp_path), NeedsRule(), "", 10, prompts=prompts)["result"][1] == 1
