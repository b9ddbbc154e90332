"""The shared update against torch's own parts, put together by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from posttrain.tests.unit.trainers.rollouts import feedback, made
from posttrain.trainers.ddpo import DDPO
from posttrain.trainers.engine.replay import steps_of
from posttrain.trainers.engine.update import SKIPPED, Beside, Optimizer, update
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, train_step
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
    adam = torch.optim.AdamW(
        leaves.values(), lr=1.0, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay
    )
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


@pytest.mark.parametrize(
    "settings",
    [
        Optimizer(learning_rate=0.01),
        Optimizer(learning_rate=0.01, max_grad_norm=0.0, weight_decay=0.3),
        Optimizer(learning_rate=0.01, max_grad_norm=0.01, warmup=4, average=0.3),
    ],
    ids=["plain", "decay", "clip, warm-up, mean"],
)
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


def sloping(by: float):
    """A loss whose gradient is ``by`` for the first number of every weight, of those beside the policy's too."""

    def evaluate(net, bank, micro, *beside):
        return sum(weight.flatten()[0] * by for each in (bank, *beside) for weight in each.values()), {}

    return evaluate


SLOW, FAST = (Optimizer(learning_rate=rate, weight_decay=0.0, max_grad_norm=0.0) for rate in (1e-3, 3e37))
EDGE = -3.3e38  # a step of FAST from here ends in no number
JUDGE = Beside("judge", lambda net: {"w": torch.full((2,), EDGE)}, FAST)


@pytest.mark.parametrize(
    "start, settings, by, options",
    [
        (EDGE, FAST, 1e-6, {}),
        (EDGE + 5e37, replace(FAST, average=0.9), 1e-6, {}),  # the mean is as far on the other side of 0
        (0.1, SLOW, 1e30, {}),
        (0.1, SLOW, 1e-6, {"beside": JUDGE}),
    ],
    ids=["weights", "mean", "moments", "beside"],
)
def test_weights_that_are_no_numbers_after_the_step_are_no_update(start, settings, by, options):
    """Loss and gradient are finite. The policy of before is kept whole, and its updates count as skipped, so that a run stops
    after three."""
    fresh = trained_policy("sd3")
    bank, ema = ({key: torch.full_like(value, x) for key, value in fresh.bank.items()} for x in (start, 3e38))
    policy = replace(fresh, bank=bank, ema=ema, metrics={SKIPPED: 2})
    new = update(policy, STEPS[:1], sloping(by), settings, **options)
    assert math.isfinite(new.metrics["loss"]) and 0 < new.metrics["grad_norm"] < math.inf
    assert new.step == policy.step and new.metrics["updates"] == 0
    assert new.metrics["skipped_updates"] == 1 and new.metrics[SKIPPED] == 3
    assert new.bank is bank and new.ema is ema and new.optimizer is policy.optimizer and new.anchors is policy.anchors
    again = update(replace(new, bank=fresh.bank, ema=None), STEPS, pull, Optimizer(learning_rate=0.01))
    assert again.metrics[SKIPPED] == 0 and again.step == 3


def test_all_updates_of_a_step_that_ends_in_no_number_count_as_skipped():
    policy = trained_policy("sd3")
    metrics = update(policy, STEPS, sloping(1e30), SLOW).metrics  # the moments are none after the first of them
    assert metrics["updates"] == 0 and metrics["skipped_updates"] == metrics[SKIPPED] == 3


def test_a_train_step_returns_a_new_policy_and_keeps_the_old():
    policy, run = made("sd3")
    before = {k: v.clone() for k, v in policy.bank.items()}
    trainer = Trainer(FlowGRPO(), Optimizer(learning_rate=1e-3, average=0.9, updates=2))
    new, again = (train_step(policy, run, feedback(run), trainer) for _ in range(2))
    assert all(torch.equal(before[k], policy.bank[k]) for k in before)
    assert any(not torch.equal(new.bank[k], before[k]) for k in before)
    assert all(torch.equal(new.bank[k], again.bank[k]) for k in before), "the same inputs give the same policy"
    assert new.step == 2 and new.iteration == 1 and set(new.ema) == set(new.bank)


def test_micro_batches_do_not_change_the_update():
    policy = trained_policy("sd3")
    run = made("sd3", policy, batch_size=8)[1]
    feed = feedback(run)
    results = []
    for size in (8, 2):
        cut = replace(run, batch_size=size)
        results.append(train_step(policy, cut, feed, Trainer(FlowGRPO(clip_range=0.5), Optimizer(learning_rate=1e-3))))
    assert results[0].metrics["grad_norm"] == pytest.approx(results[1].metrics["grad_norm"], rel=1e-3)


def test_training_in_two_sittings_is_training_in_one():
    policy, run = made("sd3")
    trainer = Trainer(DDPO(), Optimizer(learning_rate=1e-3, average=0.5, warmup=3, updates=2))
    straight = train_step(train_step(policy, run, feedback(run), trainer), run, feedback(run), trainer)
    half = train_step(policy, run, feedback(run), trainer)
    resumed = trained_policy("sd3").with_state(*half.state())
    resumed = train_step(resumed, run, feedback(run), trainer)
    for name in ("bank", "ema", "optimizer"):
        ours, theirs = getattr(straight, name), getattr(resumed, name)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), name


def test_a_loss_that_is_not_finite_skips_the_update_and_counts():
    policy, run = made("sd3")
    (steps,) = steps_of(run, feedback(run), 1)

    def evaluate(net, bank, micro):
        return next(iter(bank.values())).sum() * float("nan"), {}

    new = update(policy, [steps], evaluate, Optimizer())
    assert all(torch.equal(new.bank[k], policy.bank[k]) for k in policy.bank) and new.step == 0
    assert new.metrics["skipped_updates"] == 1 and new.metrics[SKIPPED] == 1
    assert update(new, [steps], evaluate, Optimizer()).metrics[SKIPPED] == 2


def no_number(net, bank, micro):
    """The loss, not its gradient."""
    loss, report = pull(net, bank, micro)
    return loss + (float("nan") if micro.target == 9 else 0.0), report


def no_gradient(net, bank, micro):
    """The gradient, not the loss."""
    loss, report = pull(net, bank, micro)
    return loss + (sum((weight * 0).sqrt().sum() for weight in bank.values()) if micro.target == 9 else 0.0), report


@pytest.mark.parametrize("evaluate", [no_number, no_gradient])
def test_loss_and_gradient_of_every_micro_batch_must_be_finite(evaluate):
    """One that is not spoils its update, even where the next micro-batch is well."""
    policy = trained_policy("sd3")
    new = update(policy, [[Micro(1, 9), Micro(1, 1.0)]], evaluate, Optimizer(learning_rate=0.01))
    assert new.metrics["skipped_updates"] == 1 and new.step == 0
    assert all(torch.equal(new.bank[key], policy.bank[key]) for key in policy.bank)


def test_a_weight_that_an_update_does_not_reach_stays():
    """Neither its momentum nor its decay moves it; what is kept carries no gradient."""
    policy = trained_policy("sd3")
    left_out = next(iter(policy.bank))

    def evaluate(net, bank, micro):
        return pull(net, {key: w for key, w in bank.items() if key != left_out or micro.target == 1.0}, micro)

    settings = Optimizer(learning_rate=0.01, weight_decay=0.1)
    one, two = (update(policy, [[Micro(1, 1.0)], [Micro(1, 2.0)]][:count], evaluate, settings) for count in (1, 2))
    assert torch.equal(one.bank[left_out], two.bank[left_out]) and not torch.equal(one.bank[left_out], policy.bank[left_out])
    assert not any(weight.requires_grad for weight in two.bank.values())
