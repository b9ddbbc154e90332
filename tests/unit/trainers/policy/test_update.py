"""The shared update against torch's own parts, put together by hand."""
from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from posttrain.trainers.engine.update import Optimizer, update
from small_models import trained_policy


@dataclass(frozen=True)
class Micro:
    size: int
    target: float


def pull(net, bank, micro):
    """A loss without a network: every weight is drawn to the micro-batch's target."""
    return sum((weight - micro.target).square().sum() for weight in bank.values()), {"target": micro.target}


STEPS = [[Micro(3, 1.0), Micro(1, -2.0)], [Micro(2, 0.5)], [Micro(1, 3.0), Micro(1, 0.0)]]


def by_hand(bank, settings: Optimizer, steps, start: int = 0):
    leaves = {key: value.clone().requires_grad_(True) for key, value in bank.items()}
    mean = {key: value.clone() for key, value in bank.items()}
    adam = torch.optim.AdamW(leaves.values(), lr=1.0, betas=settings.betas, eps=settings.epsilon,
                             weight_decay=settings.weight_decay)
    for number, micros in enumerate(steps, start + 1):
        size = sum(micro.size for micro in micros)
        loss = sum(pull(None, leaves, micro)[0] * micro.size for micro in micros) / size
        adam.zero_grad()
        loss.backward()
        if settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(leaves.values(), settings.max_grad_norm)
        rise = min(1.0, number / settings.warmup) if settings.warmup else 1.0
        adam.param_groups[0]["lr"] = settings.learning_rate * rise
        adam.step()
        decay = min(settings.average, (1 + number) / (10 + number))
        for key in mean:
            mean[key] = decay * mean[key] + (1 - decay) * leaves[key].detach()
    return {key: leaf.detach() for key, leaf in leaves.items()}, mean


@pytest.mark.parametrize("settings", [
    Optimizer(learning_rate=0.01), Optimizer(learning_rate=0.01, max_grad_norm=0.0, weight_decay=0.3),
    Optimizer(learning_rate=0.01, max_grad_norm=0.01, warmup=4, average=0.3)], ids=["plain", "decay", "clip, warm-up, mean"])
def test_it_is_accumulation_clipping_adamw_and_a_running_mean(settings):
    policy = trained_policy("sd3")
    expected, mean = by_hand(policy.bank, settings, STEPS)
    new = update(policy, STEPS, pull, settings)
    assert new.step == 3 and new.metrics["updates"] == 3
    for key in expected:
        torch.testing.assert_close(new.bank[key], expected[key], rtol=1e-5, atol=1e-6)
        if settings.average:
            torch.testing.assert_close(new.ema[key], mean[key], rtol=1e-5, atol=1e-6)
    assert (new.ema is not None) == bool(settings.average)
    weighted = sum(micro.size * micro.target for micros in STEPS for micro in micros) / 8
    assert new.metrics["target"] == pytest.approx(weighted)


def test_a_mean_that_is_switched_off_is_not_what_is_exported_for_ever():
    first = update(trained_policy("sd3"), STEPS, pull, Optimizer(learning_rate=0.01, average=0.9))
    second = update(first, STEPS, pull, Optimizer(learning_rate=0.01))
    assert first.weights() is first.ema and second.weights() is second.bank
    again = update(second, STEPS, pull, Optimizer(learning_rate=0.01, average=0.9))
    assert again.ema is not None and any(not torch.equal(again.ema[k], first.ema[k]) for k in again.ema)


def test_the_rate_rises_over_the_warm_up_and_falls_to_a_tenth():
    rates = [Optimizer(learning_rate=1.0, warmup=4).rate(step) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    falling = Optimizer(learning_rate=1.0, decay=10)
    assert falling.rate(0) == 1.0 and falling.rate(5) == pytest.approx(0.55) and falling.rate(50) == pytest.approx(0.1)


def test_a_gradient_that_is_not_a_number_is_skipped_and_the_next_update_is_made():
    policy = trained_policy("sd3")
    bad = [Micro(1, float("nan"))]
    new = update(policy, [bad, *STEPS, bad], pull, Optimizer(learning_rate=0.01))
    expected, _ = by_hand(policy.bank, Optimizer(learning_rate=0.01), STEPS)
    for key in expected:
        torch.testing.assert_close(new.bank[key], expected[key], rtol=1e-5, atol=1e-6)
    assert new.metrics["skipped_updates"] == 2 and new.metrics["skipped_updates_in_a_row"] == 1


def explodes(net, bank, micro):
    """Finite loss and gradient, so large that the step ends in no number."""
    return sum((weight * 3e19).square().sum() for weight in bank.values()) * 0 + sum(weight.sum() for weight in bank.values()) * 1e30, {}


@pytest.mark.parametrize("settings", [Optimizer(learning_rate=1e38, max_grad_norm=0.0), Optimizer(learning_rate=1e38, average=0.9),
                                      Optimizer(learning_rate=1e-3, max_grad_norm=0.0)], ids=["weights", "mean", "moments"])
def test_weights_that_are_no_numbers_after_the_step_are_no_update(settings):
    """The policy of before is kept whole, and the update counts as skipped, so that a run stops after three."""
    policy = trained_policy("sd3")
    new = update(policy, STEPS, explodes, settings)
    assert new.step == policy.step and new.metrics["updates"] == 0
    assert new.metrics["skipped_updates"] == new.metrics["skipped_updates_in_a_row"] == 3
    assert all(torch.equal(new.bank[key], policy.bank[key]) for key in policy.bank) and new.optimizer == policy.optimizer
    assert update(new, STEPS, pull, Optimizer(learning_rate=0.01)).metrics["skipped_updates_in_a_row"] == 0
