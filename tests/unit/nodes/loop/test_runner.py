"""What becomes of a loop when a node of its body fails."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from comfy.model_management import InterruptProcessingException
from posttrain.nodes.loop.runner import BodyError, BodyPaused, BodyRunner
from posttrain.rewards.base import ranks
from posttrain.rewards.base.reward import RewardUnavailable

ENDS = {
    RewardUnavailable: BodyPaused,
    ranks.RankEnded: BodyError,
    ranks.RankCancelled: ranks.RankCancelled,
    ranks.RankPaused: BodyPaused,
    ValueError: BodyError,
}


def failed(*message) -> BodyRunner:
    runner = object.__new__(BodyRunner)
    runner._executor = SimpleNamespace(status_messages=[("execution_start", {}), message])
    return runner


def test_each_way_in_which_another_rank_ends_has_one_here():
    assert set(ranks.ENDS.values()) <= set(ENDS)


@pytest.mark.parametrize("kind", ENDS)
def test_a_failure_in_the_body_stays_what_it_is(kind):
    data = {"node_id": "8", "node_type": "KSampler", "exception_message": "no\n", "exception_type": f"a.b.{kind.__name__}"}
    with pytest.raises(RuntimeError, match=r"KSampler \(node 8\) failed inside the loop: no") as found:
        failed("execution_error", data)._raise({})
    assert found.type is ENDS[kind]


def test_a_cancel_in_the_body_is_the_hosts():
    with pytest.raises(InterruptProcessingException):
        failed("execution_interrupted", {})._raise({})
