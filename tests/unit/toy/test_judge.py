"""The demo world's small CLIP: what it learned, its gradient, and that its recipe makes it."""
from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

pytest.importorskip("comfy.sd", reason="needs COMFYUI_DIR")

from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.learned.checkpoints import load_weights
from posttrain.toy import judge, models, pretrain, pretrain_judge, world  # noqa: E402

TINY = replace(pretrain.JUDGE, steps=2, batch=4, pictures=40)


@pytest.fixture(scope="module")
def reward():
    return judge.demo_judge()


def pictures(grey: float) -> tuple[torch.Tensor, list[str]]:
    """A true picture of each training prompt, on a background of this lightness; and the prompts."""
    specs = world.split(held_out=False)
    return torch.from_numpy(world.render(specs, 11, (grey, grey))), [world.caption(s) for s in specs]


@pytest.mark.parametrize("held_out, least", [(False, 0.85), (True, 0.65)])
def test_it_mostly_prefers_the_right_picture(held_out, least):
    assert pretrain_judge.right_of_pairs(judge.JUDGE_FILE, held_out) > least


def test_words_of_style_ask_for_the_background(reward):
    def score(grey: float, style: str) -> float:
        images, texts = pictures(grey)
        return float(reward(images, [Prompt(judge.styled(style, text)) for text in texts]).mean())

    assert score(0.62, "bright") > score(0.5, "bright") + 0.03 > score(0.38, "bright") + 0.06
    assert score(0.38, "dark") > score(0.5, "dark") + 0.03 > score(0.62, "dark") + 0.06
    assert abs(score(0.62, "") - score(0.38, "")) < 0.05, "without such a word lightness hardly counts"


def test_its_gradient_points_uphill(reward):
    images, texts = pictures(0.5)
    prompts = [Prompt(judge.styled("bright", text)) for text in texts]
    with torch.enable_grad():
        leaf = images.clone().requires_grad_(True)
        slope, = torch.autograd.grad(reward(leaf, prompts).sum(), leaf)
    step = 1e-3 * slope / slope.norm()
    moved = (reward(images + step, prompts) - reward(images - step, prompts)).double().sum()
    assert float(moved) == pytest.approx(2e-3 * float(slope.norm()), rel=0.05)


def test_words_that_it_does_not_know_are_nothing_to_it():
    weights = models.with_token_table(load_weights(judge.JUDGE_FILE))
    table = weights[models.TOKEN_TABLE]
    known = table.abs().sum(1) > 0
    assert table.shape[0] == models.VOCABULARY and int(known.sum()) == len(load_weights(judge.JUDGE_FILE)["token_ids"])
    again = judge.packed(weights, known.nonzero().flatten().tolist())
    assert all(torch.equal(again[name], value) for name, value in load_weights(judge.JUDGE_FILE).items())


def test_the_recipe_repeats_bit_for_bit(tmp_path):
    files = [tmp_path / f"{n}.safetensors" for n in "ab"]
    records = [pretrain_judge.train_judge(TINY, file) for file in files]
    first, again = map(load_weights, files)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert records[0]["held_out"] == records[1]["held_out"] and 0 <= records[0]["train"] <= 1


def test_the_shipped_file_was_made_with_these_numbers():
    record = models.training_record(judge.JUDGE_FILE)
    assert {name: record[name] for name in asdict(pretrain.JUDGE)} == asdict(pretrain.JUDGE)
    assert {name: pretrain_judge.right_of_pairs(judge.JUDGE_FILE, held) for name, held in
            (("train", False), ("held_out", True))} == {name: record[name] for name in ("train", "held_out")}


def test_it_learned_from_training_prompts_only():
    plain = {text.partition(". ")[2] or text for text in pretrain_judge.captions()}
    assert len(plain) == 78 and not plain & world.HELD_OUT


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="pretrain judge"):
        judge.demo_judge(tmp_path / "nothing.safetensors")
