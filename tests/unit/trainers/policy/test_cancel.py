"""A cancel ends a rollout or a train step before the next network evaluation, and changes nothing."""
from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.ddpo import DDPO
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, trained_policy

SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4)
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture
def cancel_at(monkeypatch):
    """cancel_at(policy, k): presses Cancel during the k-th evaluation of its network -> a list of all evaluations."""
    def arm(policy, at: int) -> list[int]:
        network, calls = policy.model.model, []
        original = network.apply_model

        def counted(x, *arguments, **keywords):
            calls.append(len(x))
            if len(calls) == at:
                comfy.model_management.interrupt_current_processing(True)
            return original(x, *arguments, **keywords)

        monkeypatch.setattr(network, "apply_model", counted)
        return calls

    yield arm
    comfy.model_management.interrupt_current_processing(False)


def made(policy, **changes):
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), replace(SMALL, **changes), 0)
    return run, advantages(Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {}))


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_rollout_makes_no_further_evaluation(cancel_at, at):
    policy = trained_policy("sd3")
    calls = cancel_at(policy, at)
    with pytest.raises(Interrupted):
        made(policy)
    assert len(calls) == at


@pytest.mark.parametrize("settings", [FlowGRPO(beta=0.1), DDPO(), NFT(kl_weight=0.1)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_train_step_makes_no_further_evaluation(cancel_at, settings, at, low_memory):
    policy = trained_policy("sd3")
    run, feedback = made(policy)
    before = {key: value.clone() for key, value in policy.bank.items()}
    calls = cancel_at(policy, at)
    with pytest.raises(Interrupted):
        train_step(policy, run, feedback, Trainer(settings, Optimizer(low_memory=low_memory)))
    assert len(calls) == at
    assert all(torch.equal(before[key], policy.bank[key]) for key in before)
    assert not any("forward" in module.__dict__ for module in policy.model.model.diffusion_model.modules())


def test_guidance_is_one_evaluation_of_both_branches(cancel_at):
    policy = trained_policy("sd3")
    calls = cancel_at(policy, 0)
    made(policy, guidance=3.0)
    assert calls == [2 * SMALL.batch_size] * (2 * SMALL.steps)
