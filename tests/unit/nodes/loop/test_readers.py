"""The means of a rollout's steps stay wherever somebody may read them, and only there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from comfy_execution.graph import DynamicPrompt
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.nodes.loop import runner
from posttrain.nodes.loop.readers import OTHERS, TRAIN_STEP, check_no_steps_are_needed, means_are_read
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.flow_grpo import FROM_MEANS, FlowGRPO
from posttrain.trainers.methods import METHODS, OWN_IMAGES, TRAJECTORY, Trainer
from posttrain.trainers.nft import NFT

KEY = "test of readers"


@pytest.fixture
def fed(monkeypatch):
    """fed(values): what the trainer's node hands on from before the loop."""
    monkeypatch.setattr(runner, "_values", {})
    return lambda values: runner._values.update({f"{KEY}t": {0: values}})


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def body(**more) -> DynamicPrompt:
    """Rollout, Score and Train Step, whose trainer comes from before the loop, as a body's executor sees them."""
    return DynamicPrompt(
        {
            "t": node(runner.FEED, key=f"{KEY}t", iteration=0),
            "r": node("PTRollout", policy=["x", 1]),
            "s": node("PTScore", rollout=["r", 0]),
            "a": node("PTAdvantages", scores=["s", 0]),
            "p": node("PreviewImage", images=["r", 1]),
            "step": node(TRAIN_STEP, rollout=["r", 0], trainer=["t", 0], feedback=["a", 0]),
            **more,
        }
    )


def of(settings: object) -> Trainer:
    return Trainer(settings, Optimizer())


def test_trainers_that_read_none_leave_none(fed):
    for settings in (FlowGRPO(), NFT()):
        fed([of(settings)])
        assert not means_are_read(body(), "r")


def test_whoever_may_read_them_finds_them(fed):
    for trust in FROM_MEANS:
        fed([of(FlowGRPO(trust=trust))])
        assert means_are_read(body(), "r"), trust
    fed([SimpleNamespace(step=lambda *_: None)])
    assert means_are_read(body(), "r"), "a trainer of another pack"
    fed([of(FlowGRPO())])
    assert means_are_read(body(n=node("SomebodysNode", rollout=["r", 0])), "r")
    second = node(TRAIN_STEP, rollout=["r", 0], trainer=["u", 0])
    assert means_are_read(body(u=node("PTFlowGRPO"), n=second), "r"), "a trainer that is made inside the loop"
    assert not means_are_read(body(n=node("SomebodysNode", rollout=["other", 0])), "r")


def test_without_a_loop_they_stay(fed):
    """The host answers from its cache there, whatever is wired to the node later."""
    assert means_are_read(body(t=node("PTFlowGRPO")), "r")
    assert means_are_read(body(step=node("PTScore", rollout=["r", 0])), "r")
    fed([of(FlowGRPO()), of(FlowGRPO())])
    assert means_are_read(body(), "r") and means_are_read(None, "r") and means_are_read(body(), None)


def test_every_node_that_takes_a_rollout_is_known():
    takes = set()
    for name, kind in NODE_CLASS_MAPPINGS.items():
        inputs = [spec for part in ("required", "optional") for spec in kind.INPUT_TYPES().get(part, {}).values()]
        takes |= {name for spec in inputs if isinstance(spec[0], str) and "PT_ROLLOUT" in spec[0].split(",")}
        if name in OTHERS:
            assert "PT_ROLLOUT" not in kind.RETURN_TYPES, f"{name} may hand the means on"
    assert takes == OTHERS | {TRAIN_STEP}


@pytest.mark.parametrize("settings", [kind for kind, method in METHODS.items() if method.needs != OWN_IMAGES])
def test_every_trainer_that_needs_random_steps_is_refused_where_there_are_none(fed, settings):
    fed([of(settings())])
    if METHODS[settings].needs == TRAJECTORY:
        with pytest.raises(
            ValueError, match=f"{settings.__name__} learns from the likelihoods of random steps, and it tells none"
        ):
            check_no_steps_are_needed(body(), "r", "it")
    else:
        check_no_steps_are_needed(body(), "r", "it")


def test_a_trainer_of_another_rollout_is_not_asked(fed):
    fed([of(FlowGRPO())])
    check_no_steps_are_needed(body(), "another", "it")
    fed([])  # not known yet: Train Step will say it
    check_no_steps_are_needed(body(), "r", "it")
    check_no_steps_are_needed(None, None, "it")
