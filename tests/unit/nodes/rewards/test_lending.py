"""Rewards that judges hold: real judges in this process, of which some do not answer."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest
import torch
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.nodes.rewards import lending
from posttrain.nodes.rewards.judging import Judging
from posttrain.rewards.base import lent
from posttrain.rewards.base.prompt import Prompt, Source
from posttrain.rewards.base.reward import RewardUnavailable, score
from posttrain.rewards.base.stopwatch import JUDGES, collect, end
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.rules.jpeg import JPEGReward
from posttrain.toy.judge import demo_judge

PROMPT = {
    "1": {"class_type": "PTDemoJudge", "inputs": {}},
    "2": {"class_type": "PTLoopStart", "inputs": {}},
    "3": {"class_type": "PTDemoJudge", "inputs": {"after": ["2", 0]}},
    "4": {"class_type": "PTRewardSum", "inputs": {"reward_1": ["1", 0], "reward_2": ["5", 0]}},
    "5": {"class_type": "PTRewardJPEG", "inputs": {}},
}
IMAGES = torch.rand(37, 24, 24, 3, generator=torch.Generator().manual_seed(0))
PROMPTS, GROUPS = [Prompt(f"{1 + i % 3} red balls") for i in range(37)], [i % 3 for i in range(37)]


class Heard:
    """A judge that is asked as Ray's actors are. dies: how many of its first jobs are lost with it."""

    def __init__(self, dies: int = 0):
        loop = asyncio.new_event_loop()
        self.judging, self.jobs, self.dies = Judging(loop, SimpleNamespace(publish_loop=asyncio.Event().wait)), 0, dies
        self.judging._reward = lambda nodes, node, slot: self.rewards[node]  # the host's executor does that in tests/ray
        self.rewards, self.lock = {"1": demo_judge()}, threading.Lock()

    def __call__(self, job, stopped):
        with self.lock:
            self.jobs += 1
            if self.jobs <= self.dies:
                raise OSError("it is dead")
            return self.judging.answer(job)


@pytest.fixture
def lends(monkeypatch):
    """lends(judges) -> the reward of node 1, which they hold, too."""
    monkeypatch.setattr(lent, "_lent", [])
    monkeypatch.setattr(lending, "_lending", None)

    def made(judges: dict, node: str = "1"):
        from comfy_execution.utils import CurrentNodeContext

        lending.lend(judges, PROMPT)
        with CurrentNodeContext("prompt", node, 0):
            return NODE_CLASS_MAPPINGS["PTDemoJudge"]().load()[0]

    return made


def values(reward, prompts=PROMPTS):
    return score(reward, IMAGES, prompts, GROUPS).values


def test_judges_say_what_the_reward_here_says_and_it_is_not_asked(lends):
    judges = {"a": Heard(), "b": Heard()}
    reward, (watch, token) = lends(judges), collect()
    found = values(reward)
    end(token)
    assert float((found - values(demo_judge())).abs().max()) < 1e-6
    assert judges["a"].jobs + judges["b"].jobs == 3
    assert watch.take()[JUDGES] > 0


def test_one_that_dies_costs_no_score_and_is_asked_again_where_it_is_the_only_one(lends, monkeypatch):
    monkeypatch.setattr(lending, "REST", 0.01)
    for judges in ({"a": Heard(dies=1), "b": Heard()}, {"a": Heard(dies=2)}):
        assert float((values(lends(judges)) - values(demo_judge())).abs().max()) < 1e-6
        assert sum(judge.jobs - judge.dies for judge in judges.values()) >= 3


def test_where_none_comes_back_the_run_is_paused_in_words(lends, monkeypatch):
    monkeypatch.setattr(lending, "PATIENCE", 0.0)
    with pytest.raises(RewardUnavailable, match="judges: none of them is left. a: it is dead"):
        values(lends({"a": Heard(dies=9)}))


def test_what_a_reward_says_no_to_is_not_tried_again(lends):
    judge = Heard()
    judge.rewards = {}
    with pytest.raises(RuntimeError, match="a judge could not score: KeyError"):
        values(lends({"a": judge}))
    assert judge.jobs == 1


def test_a_member_of_a_sum_is_asked_there_and_what_it_counts_is_told(lends):
    judge = Heard()
    total = WeightedSum(((lends({"a": judge}), 1.0), (JPEGReward(), 0.5)))
    long = [Prompt("a red ball " * 60)] * 37
    found, own = (
        score(each, IMAGES, long, GROUPS) for each in (total, WeightedSum(((demo_judge(), 1.0), (JPEGReward(), 0.5))))
    )
    assert float((found.values - own.values).abs().max()) < 1e-6 and judge.jobs == 3
    assert found.stats["prompts_cut"] == own.stats["prompts_cut"] == 1


def test_what_needs_a_gradient_or_carries_a_picture_stays_here(lends):
    judge = Heard()
    reward = lends({"a": judge})
    with torch.enable_grad():
        assert reward(IMAGES[:2].requires_grad_(True), PROMPTS[:2]).requires_grad
    IMAGES.requires_grad_(False)
    values(reward, [Prompt("x", source=Source("p", "p", lambda: IMAGES[0]))] * 37)
    assert not judge.jobs


def test_what_changes_while_it_trains_and_what_no_node_has_made_stay_here(lends):
    judge = Heard()
    for reward in (lends({"a": judge}, "3"), lends({"a": judge}, "nowhere"), demo_judge()):
        values(reward)
    assert not judge.jobs and not lent._lent
