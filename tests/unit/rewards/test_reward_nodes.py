from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from posttrain.nodes import reward as nodes
from posttrain.rewards.base import Prompt, RewardInfo


class NeedsRule:
    info = RewardInfo("rule", 0, 1, True, False, "")

    def __call__(self, images, prompts):
        return torch.tensor([1.0 if p.spec else 0.0 for p in prompts])


def test_score_reads_a_rollout():
    rollout = SimpleNamespace(images=torch.rand(4, 8, 8, 3), index=torch.tensor([0, 0, 1, 1]),
                              prompts=SimpleNamespace(prompts=(Prompt("a", {"x": 1}), Prompt("b"))))
    scores, mean = nodes.PTScore().run(rollout, NeedsRule())
    assert scores.values.tolist() == [1, 1, 0, 0] and mean == 0.5


def test_score_images_shows_numbers_and_finds_rules_by_text():
    prompts = SimpleNamespace(prompts=(Prompt("two cats", {"n": 2}), Prompt("a dog", {"n": 1})))
    found = nodes.PTScoreImages().run(torch.rand(2, 8, 8, 3), NeedsRule(), " two cats\n", nodes.ONE_PROMPT, prompts)
    scores, mean, table = found["result"]
    assert mean == 1.0 and scores.groups.tolist() == [0, 0] and found["ui"]["text"][1] == table
    lines = nodes.PTScoreImages().run(torch.rand(2, 8, 8, 3), NeedsRule(), "a fox\na dog", nodes.LINE_EACH, prompts)
    assert lines["result"][0].values.tolist() == [0, 1] and lines["result"][0].groups.tolist() == [0, 1]


def test_line_per_image_needs_as_many_lines():
    with pytest.raises(ValueError, match="needs 3 lines for 3 images, got 2"):
        nodes.prompts_for("a\nb", nodes.LINE_EACH, 3, {})


def test_simple_reward_nodes_make_working_rewards():
    jpeg, = nodes.PTRewardJPEG().run(nodes.PTRewardJPEG.SMALL, "kB", 95)
    colour, = nodes.PTRewardColour().run("brightness", "less", 0.0, 1.0)
    total, = nodes.PTRewardSum().run(reward_2=jpeg, weight_2=0.5, reward_4=colour)
    images = torch.rand(2, 8, 8, 3)
    expected = 0.5 * jpeg(images, []) + colour(images, [])
    assert torch.allclose(total(images, [Prompt("")] * 2), expected.double())
    with pytest.raises(ValueError, match="at least one reward"):
        nodes.PTRewardSum().run()


@pytest.mark.parametrize("name", nodes.NODES)
def test_every_input_has_a_tooltip_and_every_output_a_name(name):
    node = nodes.NODES[name]
    inputs = node.INPUT_TYPES()
    for entry in [*inputs.get("required", {}).items(), *inputs.get("optional", {}).items()]:
        assert entry[1][1]["tooltip"], entry
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    assert node.DESCRIPTION and node.CATEGORY.startswith("PostTrain/") and nodes.NAMES[name]
