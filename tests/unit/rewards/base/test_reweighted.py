"""Weights that are changed while a policy is trained: in the reward that scores, in its numbers, and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, RewardInfo, score_rollout
from posttrain.rewards.base.reweighted import reweighted, told, told_before, weights_of
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.composite.ensemble import Ensemble, Member


class Channel:
    def __init__(self, name: str, number: int):
        self.info, self._number = RewardInfo(name, 0.0, 1.0, False, True, ""), number

    def __call__(self, images, prompts):
        return images[..., self._number].mean((1, 2))


RED, BLUE = Channel("red", 0), Channel("blue", 2)
REWARDS = {
    "a sum": WeightedSum(((RED, 1.0), (BLUE, 2.0), (BLUE, 0.0))),
    "an ensemble": Ensemble(
        (RED, Member(BLUE, weight=2.0), Member(BLUE, weight=0.0), Member(RED, "monitor"), Member(RED, "gate"))
    ),
}


def scores_of(reward, wanted):
    torch.manual_seed(0)
    rollout = SimpleNamespace(images=torch.rand(6, 4, 4, 3), prompts=SimpleNamespace(prompts=[Prompt("a cat")]),
                              index=torch.zeros(6, dtype=torch.int64), reward_weights=wanted)  # fmt: skip
    return score_rollout(reward, rollout)


@pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)
def test_a_changed_weight_scores_as_a_reward_that_was_made_with_it(reward):
    as_made = reweighted(reward, {"red": 0.0, "blue 2": 5.0, "unknown": 9.0})
    assert weights_of(as_made) == {"red": 0.0, "blue": 2.0, "blue 2": 5.0}
    assert weights_of(reward) == {"red": 1.0, "blue": 2.0, "blue 2": 0.0}, "the one that came in is as it was"
    changed = scores_of(reward, {"red": 0.0, "blue 2": 5.0, "unknown": 9.0})
    assert torch.equal(changed.values, scores_of(as_made, {}).values) and not torch.equal(
        changed.values, scores_of(reward, {}).values
    )
    assert told_before(changed.stats) == {"weight/red": 0.0, "weight/blue": 2.0, "weight/blue 2": 5.0}


def test_where_nobody_can_steer_no_weight_is_told():
    assert told_before(scores_of(REWARDS["a sum"], None).stats) == {}
    assert told(RED) == {} and reweighted(RED, {"red": 2.0}) is RED and told_before(scores_of(RED, {"red": 2.0}).stats) == {}
