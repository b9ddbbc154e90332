"""Rewards of other packs: the least that works, wherever a reward can be wired."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.rewards.base.pixels import to_uint8
from posttrain.rewards.base.reward import Prompt, Reward, RewardInfo, as_reward, score
from posttrain.rewards.rules.colour import ColourReward

pytestmark = pytest.mark.usefixtures("opened")

IMAGES = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 8, 8, 3)
PROMPTS = [Prompt("a")] * 4


def redness(images, prompts):
    return images[..., 0].mean((1, 2)).tolist()


def test_a_function_is_enough():
    scores = score(redness, IMAGES, PROMPTS, [0] * 4)
    assert scores.values.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1]) and list(scores.members) == ["redness"]
    assert as_reward(redness).info == RewardInfo("redness", None, None, False, False, "")
    assert isinstance(as_reward(redness), Reward)


@pytest.mark.parametrize("place", ["itself", "info"])
def test_what_it_says_of_itself_counts(place):
    class Theirs:
        def __call__(self, images, prompts):
            return images.mean((1, 2, 3))

    theirs, said = Theirs(), {"name": "grey", "high": 1.0, "differentiable": True}
    vars(theirs).update(said if place == "itself" else {"info": SimpleNamespace(**said)})
    assert as_reward(theirs).info == RewardInfo("grey", None, 1.0, False, True, "")


def test_ours_stay_as_they_are():
    assert as_reward(reward := ColourReward()) is reward


@pytest.mark.parametrize("wrong", [3, "brightness", None, ColourReward])
def test_what_cannot_be_called_is_refused(wrong):
    with pytest.raises(ValueError, match="is no reward: it must be callable"):
        score(wrong, IMAGES, PROMPTS, [0] * 4)


def test_too_few_numbers_are_refused_by_name():
    with pytest.raises(ValueError, match="'<lambda>' must answer one number per image"):
        score(lambda images, prompts: [1.0], IMAGES, PROMPTS, [0] * 4)


def rollout():
    return SimpleNamespace(
        images=IMAGES,
        prompts=SimpleNamespace(prompts=[Prompt("a")]),
        index=torch.zeros(4, dtype=torch.int64),
        groups=torch.zeros(4, dtype=torch.int64),
    )


def folder(tmp_path):
    for number, image in enumerate(to_uint8(IMAGES)):
        Image.fromarray(image.numpy()).save(tmp_path / f"{number}.png")
    return str(tmp_path)


def pairs(tmp_path):
    folder(tmp_path)
    pictures = [SimpleNamespace(name=f"{n}.png", read=(tmp_path / f"{n}.png").read_bytes) for n in (3, 0)]
    return SimpleNamespace(kind="pairs", rows=[SimpleNamespace(prompt="a", pictures=pictures)])


def scored(reward):
    return score(reward, IMAGES, PROMPTS, [0] * 4).values[3] > 0


# every node with a socket for a reward: what comes of a function there
NODES = {
    "PTScore": lambda node, _: node.run(rollout(), redness)[1] == pytest.approx(0.5),
    "PTScoreImages": lambda node, _: (
        "redness: range unbounded" in str(node.run(IMAGES, redness, "", "one prompt for all images"))
    ),
    "PTScoreFolder": lambda node, path: node.run(folder(path), redness, "", 9)["result"][1] == pytest.approx(0.5, abs=0.01),
    "PTRewardAgreement": lambda node, path: (
        "redness: 100.0% of 1 pairs" in node.run(pairs(path), 9, reward_1=redness)["result"][0]
    ),
    "PTRewardSum": lambda node, _: scored(node.run(reward_1=redness)[0]),
    "PTRewardMember": lambda node, _: scored(node.run(redness, "trained", 1.0, "raw", 0.5, 0.1)[0]),
    "PTRewardEnsemble": lambda node, _: scored(node.run("weighted mean", 1.0, True, reward_1=redness)["result"][0]),
    "PTRewardFormula": lambda node, _: scored(node.run("2 * a", a=redness)[0]),
}
# these hand it on to ``score`` or to ``Course`` (tests/host/test_other_packs.py trains with one), or take only their own kind
HAND_ON = {"PTTrain", "PTBackpropStep", "PTEvaluate", "PTStepRollout", "PTStepRewardByRollouts", "PTAdversarialReward",
           "PTEvaluateWhileTraining", "PTBlindComparison", "PTEstimate", "PTRTDMD", "PTAudit"}  # fmt: skip


def test_no_socket_is_forgotten():
    found = {
        name
        for name, node in NODE_CLASS_MAPPINGS.items()
        for kind in ("required", "optional")
        for spec in node.INPUT_TYPES().get(kind, {}).values()
        if "PT_REWARD" in str(spec[0]).split(",")
    }
    assert found == {*NODES, *HAND_ON}


@pytest.mark.parametrize("name", NODES)
def test_a_function_works_in_every_socket(name, tmp_path):
    assert NODES[name](NODE_CLASS_MAPPINGS[name](), tmp_path)
