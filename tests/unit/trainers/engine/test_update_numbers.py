"""What an update counts and reports, and weights that learn beside the policy's; without a network's answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from posttrain.trainers.engine.update import SKIPPED, Beside, Optimizer, update
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from small_models import small_model, trained_policy


@dataclass(frozen=True)
class Micro:
    size: int
    target: float


STEPS = [[Micro(3, 1.0), Micro(1, -2.0)], [Micro(2, 0.5)], [Micro(1, 3.0), Micro(1, 0.0)]]
BAD = [Micro(1, math.nan)]


def pull(net, bank, micro):
    return sum((weight - micro.target).square().sum() for weight in bank.values()), {"target": micro.target}


def pull_both(net, bank, micro, other):
    """The policy to the target, the others to twice the target."""
    loss, report = pull(net, bank, micro)
    return loss + (other["w"] - 2 * micro.target).square().sum(), report | {"w": float(other["w"].detach().mean())}


def test_progress_counts_every_micro_batch():
    seen = []
    update(trained_policy("sd3"), STEPS, pull, Optimizer(), progress=lambda *numbers: seen.append(numbers))
    assert seen == [(k, 5) for k in range(1, 6)]


def test_skipped_updates_are_counted_over_train_steps_until_one_is_made():
    policy = trained_policy("sd3")
    assert update(policy, STEPS, pull, Optimizer()).metrics[SKIPPED] == 0
    first = update(policy, [BAD], pull, Optimizer())
    assert first.metrics[SKIPPED] == 1 and first.metrics["skipped_updates"] == 1 and first.metrics["updates"] == 0
    assert math.isnan(first.metrics["grad_norm"])
    second = update(first, [BAD, BAD], pull, Optimizer())
    assert second.metrics[SKIPPED] == 3 and second.metrics["skipped_updates"] == 2
    third = update(second, [*STEPS, BAD], pull, Optimizer())
    assert third.metrics[SKIPPED] == 1 and third.metrics["skipped_updates"] == 1 and third.metrics["updates"] == 3


@pytest.mark.parametrize("asked, left_out", [(1, None), (3, None), (4, 1), (16, 13)])
def test_updates_that_the_images_do_not_fill_are_counted(asked, left_out):
    new = update(trained_policy("sd3"), STEPS, pull, Optimizer(updates=asked))
    assert new.metrics.get("updates_left_out") == left_out


def test_a_report_is_a_mean_over_the_samples_and_the_rate_is_that_of_the_last_step():
    policy = trained_policy("sd3")
    settings = Optimizer(learning_rate=1e-9, warmup=4, max_grad_norm=0.0)
    metrics = update(policy, STEPS, pull, settings).metrics
    squares = {t: sum(float((w.double() - t).square().sum()) for w in policy.bank.values()) for t in (1.0, -2.0, 0.5, 3.0, 0.0)}
    assert metrics["loss"] == pytest.approx(
        (3 * squares[1.0] + squares[-2.0] + 2 * squares[0.5] + squares[3.0] + squares[0.0]) / 8, rel=1e-5
    )
    norms = [
        math.sqrt(sum(float((2 * (w.double() - t)).square().sum()) for w in policy.bank.values())) for t in (0.25, 0.5, 1.5)
    ]
    assert metrics["grad_norm"] == pytest.approx(sum(norms) / 3, rel=1e-5)
    assert metrics["learning_rate"] == pytest.approx(0.75e-9)
    again = update(policy, [BAD], pull, settings).metrics
    assert again["learning_rate"] == pytest.approx(0.25e-9), "before the first step it is the first step's"


def test_a_gradient_is_scaled_down_to_the_largest_norm_and_never_up():
    policy = trained_policy("sd3")
    plain = Optimizer(learning_rate=1e-3, epsilon=1e3, weight_decay=0.0, max_grad_norm=0.0)  # a step as long as the gradient
    whole = update(policy, STEPS[:1], pull, plain)
    norm = whole.metrics["grad_norm"]
    moved = {
        largest: update(policy, STEPS[:1], pull, replace(plain, max_grad_norm=largest)) for largest in (norm / 2, norm * 2)
    }
    for key, before in policy.bank.items():
        full = whole.bank[key] - before
        torch.testing.assert_close(moved[norm / 2].bank[key] - before, full / 2, rtol=1e-2, atol=1e-7)
        torch.testing.assert_close(moved[norm * 2].bank[key], whole.bank[key], rtol=0, atol=0)


def test_weights_beside_the_policys_learn_at_their_own_rate_and_are_taken_up_again():
    policy = trained_policy("sd3")
    mine, theirs = Optimizer(learning_rate=0.01), Optimizer(learning_rate=0.1, warmup=2, weight_decay=0.0)
    start = {"w": torch.tensor([0.5, -0.5])}
    beside = Beside("judge", lambda net: start, theirs)
    whole = update(policy, STEPS, pull_both, mine, beside=beside)
    alone = update(policy, STEPS, pull, mine)
    for key in policy.bank:
        torch.testing.assert_close(whole.bank[key], alone.bank[key], rtol=1e-6, atol=1e-7)
    leaf = start["w"].clone().requires_grad_()
    adam = torch.optim.AdamW([leaf], betas=theirs.betas, eps=theirs.epsilon, weight_decay=0.0)
    for rate, target in zip((0.05, 0.1, 0.1), (0.25, 0.5, 1.5)):
        adam.param_groups[0]["lr"] = rate
        leaf.grad = 2 * (leaf.detach() - 2 * target)
        leaf.grad *= min(1.0, theirs.max_grad_norm / float(leaf.grad.norm()))
        adam.step()
    torch.testing.assert_close(whole.anchors["judge"]["w"], leaf.detach(), rtol=1e-5, atol=1e-6)
    parts = policy
    for steps in (STEPS[:1], STEPS[1:]):
        parts = update(parts, steps, pull_both, mine, beside=beside)
    assert torch.equal(parts.anchors["judge"]["w"], whole.anchors["judge"]["w"]) and start["w"].tolist() == [0.5, -0.5]


@pytest.mark.parametrize("begun", [False, True])
def test_the_reach_of_the_gradient_is_looked_at_in_the_first_micro_batch_of_a_new_policy(begun):
    """A layer that the loss does not depend on costs two evaluations, once."""
    policy, calls = replace(trained_policy("sd3"), step=1 if begun else 0), []
    left_out = next(key for key in policy.bank if key.endswith(".lora_B"))

    def evaluate(net, bank, micro):
        calls.append(micro)
        return pull(net, {key: weight for key, weight in bank.items() if key != left_out}, micro)

    update(policy, STEPS, evaluate, Optimizer())
    micros = [micro for step in STEPS for micro in step]
    assert calls == micros if begun else calls == micros[:1] * 3 + micros[1:]


def test_weights_beside_the_policys_are_given_where_the_reach_of_the_gradient_is_looked_at():
    """Micro-batch and further weights stay in their places."""
    policy, calls, start = trained_policy("sd3"), [], {"w": torch.tensor([0.5])}
    left_out = next(key for key in policy.bank if key.endswith(".lora_B"))

    def evaluate(net, bank, micro, other):
        calls.append((micro, other["w"].item()))
        return pull_both(net, {key: weight for key, weight in bank.items() if key != left_out}, micro, other)

    update(policy, [[STEPS[0][0]]], evaluate, Optimizer(), beside=Beside("judge", lambda net: start, Optimizer()))
    assert calls == [(STEPS[0][0], 0.5)] * 3


@pytest.mark.parametrize(
    "dtype, begun, said",
    [(torch.bfloat16, 0, True), (torch.float16, 99, True), (torch.bfloat16, 100, False), (torch.float32, 0, False)],
)
def test_whether_the_lora_shows_is_measured_in_the_first_hundred_steps_of_a_network_in_half_precision(dtype, begun, said):
    policy = replace(create_policy(small_model("sd3", dtype, dtype), Recipe(rank=4)), step=begun)
    new = update(policy, STEPS, pull, Optimizer(learning_rate=1e-3))
    assert ("lora_shows" in new.metrics) == said
    if said:
        with open_policy(policy) as net:
            assert new.metrics["lora_shows"] == net.share_shown(new.bank) > net.share_shown(policy.bank)
