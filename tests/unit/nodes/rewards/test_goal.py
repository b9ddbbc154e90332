"""Goal: each choice is the reward that it says, and what one needs and is not there is said in words."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from posttrain.nodes.access import located
from posttrain.nodes.rewards import goal, learned
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.learned.likeness import LikePictures, ShowsWords
from posttrain.rewards.person.by_hand import BEST_AND_WORST, HumanReward
from safetensors.torch import save_file

from ...rewards.networks import picture, tiny_open_clip

FILES = {goal.BETTER: "PickScore_v1.safetensors", goal.PROMPTS: "clip-vit-large-patch14.safetensors",
         goal.LIKE: "clip-vit-large-patch14.safetensors", goal.LESS: "clip-vit-large-patch14.safetensors"}  # fmt: skip
PROMPTS = [Prompt("a red fox"), Prompt("a blue boat")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two pictures in the input folder's "mine"."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    place = tmp_path / "input" / "mine"
    place.mkdir(parents=True)
    for seed in (1, 2):
        Image.fromarray((picture(60, 80, seed)[0].numpy() * 255).astype("uint8")).save(place / f"{seed}.png")
    return "mine"


def with_networks(models) -> None:
    (models / "reward_models").mkdir()
    weights = {key: value.contiguous() for key, value in tiny_open_clip().state_dict().items()}
    for name in set(FILES.values()):
        save_file(weights, models / "reward_models" / name)


def made(name: str, about: str = ""):
    (reward,) = goal.PTGoal().run(name, about)
    return reward


def test_every_goal_is_tested_here():
    assert {*FILES, goal.TASTE} == set(goal.GOALS)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_its_place_and_size(name, models, folder):
    with pytest.raises(FileNotFoundError) as error:
        made(name, folder)
    text = str(error.value)
    assert FILES[name] in text and str(models) in text and "GB" in text and "Download" in text


def test_each_is_the_reward_that_it_says(models, folder):
    with_networks(models)
    images = torch.cat([picture(64, 64, seed) for seed in (3, 4)])
    follows, better = (learned.PTRewardCLIP().run(kind, "auto")[0] for kind in ("CLIPScore", "PickScore"))
    (network,) = follows.networks()
    files = sorted(located(folder).glob("*"))
    fit = follows(images, PROMPTS)
    expected = {goal.BETTER: better(images, PROMPTS), goal.PROMPTS: fit,
                goal.LIKE: fit + LikePictures(network, files)(images, PROMPTS),
                goal.LESS: fit - ShowsWords(follows, "mine")(images, PROMPTS)}  # fmt: skip
    for name, values in expected.items():
        found = score(made(name, " mine "), images, PROMPTS, [0, 1]).values
        assert torch.allclose(found.double(), values.double(), atol=1e-6), name
    assert len({tuple(values.tolist()) for values in expected.values()}) == len(expected)


def test_my_taste_is_the_person_at_the_page():
    reward = made(goal.TASTE)
    assert isinstance(reward, HumanReward) and reward.mode == BEST_AND_WORST and not reward.info.differentiable


@pytest.mark.parametrize("name", goal.ASKED)
@pytest.mark.parametrize("about", ["", "  "])
def test_what_a_goal_needs_is_said_before_anything_is_queued(name, about):
    words = goal.PTGoal.VALIDATE_INPUTS(name, about)
    assert words.startswith("folder_or_words: it is empty") and name in words
    with pytest.raises(ValueError, match="folder_or_words: it is empty"):
        made(name, about)
    assert goal.PTGoal.VALIDATE_INPUTS(name, None) is True, "wired: not known yet"


def test_an_unknown_goal_and_a_folder_that_is_not_there_are_named(models, folder):
    with_networks(models)
    assert "follow prompts" in goal.PTGoal.VALIDATE_INPUTS("be nice", "")
    with pytest.raises(FileNotFoundError, match="folder: nowhere does not exist"):
        made(goal.LIKE, "nowhere")
    with pytest.raises(ValueError, match="folder_or_words: .* lies outside"):
        made(goal.LIKE, "/etc")


def test_a_picture_added_to_the_folder_is_seen(folder):
    before = goal.PTGoal.IS_CHANGED(goal.LIKE, folder)
    Image.new("RGB", (8, 8)).save(located(folder) / "new.png")
    assert goal.PTGoal.IS_CHANGED(goal.LIKE, folder) != before
    assert goal.PTGoal.IS_CHANGED(goal.LESS, folder) == goal.PTGoal.IS_CHANGED(goal.LESS, folder)
