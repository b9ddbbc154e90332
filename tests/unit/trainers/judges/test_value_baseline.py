"""DPOK's value baseline: it learns what to expect, leaves the gradient as it is on average, and steadies it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.dpok import DPOK
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.judges.head import new_head
from posttrain.trainers.judges.value_baseline import VALUE, fitted, value_baseline, values
from posttrain.trainers.losses.dpok import dpok_loss
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.transitions import Gaussian, log_prob
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, trained_policy

SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4)
TRAINER = Trainer(DPOK(value_steps=20), Optimizer(learning_rate=1e-3, updates=2))
F64 = torch.float64


def made(kind: str, policy=None, iteration: int = 0, **settings):
    policy = policy or trained_policy(kind)
    return policy, rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), iteration)


def feedback(run, values=None, rule="batch"):
    values = run.images.mean((1, 2, 3)).double() if values is None else values
    return advantages(Scores(values, run.index, {}, {}), rule)


def fresh(inputs: torch.Tensor, rewards: torch.Tensor):
    """A head that expects the mean everywhere."""
    weights = new_head(inputs, torch.Generator().manual_seed(0))
    return weights | {
        "out.weight": torch.zeros_like(weights["out.weight"]),
        "out.bias": torch.zeros(()),
        "steps": torch.zeros(()),
        "reward.mean": rewards.mean(),
        "reward.std": rewards.std(correction=0),
    }


def analytic(count: int, seed: int, scale: float = 300.0, offset: float = 5000.0):
    """States [N, 5] and rewards whose expectation in each state is known; 4/5 of their spread is expected."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=random)
    known = x[:, 0] + 0.5 * (x[:, 1] * x[:, 2])
    noise = torch.randn(count, generator=random) * known.std() * 0.5
    return x, offset + scale * (known + noise), offset + scale * known


def test_it_learns_the_expected_reward_of_a_state_in_any_unit():
    x, rewards, _ = analytic(2000, 0)
    unseen, seen_rewards, expected = analytic(2000, 1)
    errors, head = [], fresh(x, rewards)
    for _ in range(4):
        errors.append(float((values(head, unseen) - expected).square().mean()))
        head = fitted(head, x, rewards, 400)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05 * errors[0]
    left = (seen_rewards - values(head, unseen)).var() / seen_rewards.var()
    assert 0.19 < float(left) < 0.27, "a fifth of the spread is chance, which no state foretells"


def test_learning_in_two_sittings_is_learning_in_one():
    x, rewards, _ = analytic(100, 0)
    start = fresh(x, rewards)
    once, twice = fitted(start, x, rewards, 20), fitted(fitted(start, x, rewards, 8), x, rewards, 12)
    assert set(once) == set(twice) and all(torch.equal(once[key], twice[key]) for key in once)


def test_a_baseline_of_the_state_keeps_the_gradient_and_lowers_its_variance():
    """One Gaussian step from a random state x to (1 + theta) x + z; the reward -(after - 3 x)^2 wants it near 3 x.

    E r = -((theta - 2)^2 E x^2 + 1), so the gradient at theta = 0 is 4 E x^2 = 4.
    """
    random = torch.Generator().manual_seed(0)
    x, z = (torch.randn(200_000, 1, 1, 1, dtype=F64, generator=random) for _ in range(2))
    theta = torch.zeros(len(x), dtype=F64, requires_grad=True)
    after = x + z
    rewards = -(after - 3 * x).square().flatten()
    other = torch.randn(2, 2000, 1, generator=random)  # what the head learns from
    then = -(other[1] - 2 * other[0]).square().flatten()
    learned = values(fitted(fresh(other[0], then), other[0], then, 1500), x.flatten(1).float()).double()
    exact = -(4 * x.square() + 1).flatten()  # E over z, given x
    mean, variance = {}, {}
    for name, baseline in {"none": 0.0, "mean": rewards.mean(), "learned": learned, "exact": exact}.items():
        now = log_prob(after, Gaussian((1 + theta)[:, None, None, None] * x, torch.ones(len(x), dtype=F64)))
        loss = dpok_loss(now, now.detach(), rewards - baseline, kl_weight=0.0, reward_weight=1.0).loss
        (gradient,) = torch.autograd.grad(-loss * len(x), theta)
        mean[name], variance[name] = gradient.mean(), gradient.var()
    for name, found in mean.items():
        assert abs(found - 4) < 4 * (variance[name] / len(x)).sqrt(), name
    assert variance["exact"] < 0.5 * variance["mean"] < 0.5 * variance["none"]
    assert variance["learned"] < 1.1 * variance["exact"]


def test_the_first_rollout_is_compared_with_the_mean_of_its_other_images():
    policy, run = made("sd3")
    rewards = torch.tensor([1, 2, float("nan"), 4, 5, 6, 7, 8], dtype=F64)
    expected, head, report, cost = value_baseline(policy, run, rewards, 5)
    assert expected.shape == (8, 3) and cost == 8 * 3
    torch.testing.assert_close(expected[0], torch.full((3,), 32 / 6))
    torch.testing.assert_close(expected[7], torch.full((3,), 25 / 6))
    assert report["value_explained"] < 0 and float(head["steps"]) == 5


def test_a_rollout_is_judged_by_a_head_that_has_not_seen_its_rewards():
    policy, run = made("sd3")
    rewards = run.images.mean((1, 2, 3)).double()
    _, head, _, _ = value_baseline(policy, run, rewards, 50)
    later = replace(policy, anchors={VALUE: head})
    ours, _, _, _ = value_baseline(later, run, rewards, 50)
    other, _, _, _ = value_baseline(later, run, rewards.flip(0) * 7, 50)
    assert torch.equal(ours, other) and ours.std() > 0


def moved(policy, run, feedback, settings):
    """The first step's direction: the mean gradient that AdamW remembers."""
    new = train_step(policy, run, feedback, Trainer(settings, Optimizer(max_grad_norm=0)))
    return torch.cat([v.flatten() for k, v in sorted(new.optimizer.items()) if k.endswith("exp_avg")])


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_the_first_step_is_that_of_advantages_by_leaving_one_out(kind):
    """Of one prompt's images: the reward minus the mean of the others, with its sign and size."""
    policy, run = made(kind, prompts_per_iteration=1)
    ours = moved(policy, run, feedback(run), DPOK(value_steps=3))
    theirs = moved(policy, run, feedback(run, rule="leave one out"), DPOK())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))
    assert theirs.abs().max() > 0


@pytest.mark.parametrize("expected", [-1.0, 2.0])
def test_a_later_step_is_that_of_the_rewards_minus_what_the_head_expects(expected):
    policy, run = made("sd3")
    rewards = run.images.mean((1, 2, 3)).double()
    _, head, _, _ = value_baseline(policy, run, rewards, 1)
    nothing = {key: torch.zeros_like(head[key]) for key in ("out.weight", "out.bias")}
    head = head | nothing | {"reward.mean": torch.tensor(expected)}  # expects this everywhere
    ours = moved(replace(policy, anchors={VALUE: head}), run, feedback(run), DPOK(value_steps=3))
    known = replace(feedback(run), values=rewards - expected, used=torch.ones(8, dtype=torch.bool))
    theirs = moved(policy, run, known, DPOK())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))
    assert theirs.abs().max() > 0


def test_the_step_costs_one_frozen_evaluation_more_for_each_state_and_trains_with_one_image_a_prompt():
    policy, run = made("sd3", images_per_prompt=1, batch_size=2, prompts_per_iteration=2)
    new = train_step(policy, run, feedback(run), TRAINER)
    assert new.metrics["update_evaluations"] == 3 * (2 * 3), "the policy, the reference for the KL, the baseline"
    assert new.metrics["updates"] == 1 and new.metrics["value_loss"] > 0
    assert any(not torch.equal(new.bank[k], policy.bank[k]) for k in policy.bank)
    plain = train_step(policy, run, feedback(run), Trainer(DPOK(), Optimizer()))
    assert plain.metrics["update_evaluations"] == 2 * (2 * 3) and VALUE not in plain.anchors


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_stopped_and_resumed_it_is_bit_for_bit_the_same(kind):
    policy, _ = made(kind)

    def iterate(policy, iteration):
        _, run = made(kind, policy, iteration)
        return train_step(policy, run, feedback(run), TRAINER)

    first = iterate(policy, 0)
    straight = iterate(first, 1)
    tensors, meta = first.state()
    resumed = iterate(trained_policy(kind).with_state({k: v.clone() for k, v in tensors.items()}, meta), 1)
    assert set(straight.anchors) == {VALUE}
    ours, theirs = straight.state()[0], resumed.state()[0]
    assert set(ours) == set(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert float(straight.anchors[VALUE]["steps"]) == 40
    assert straight.metrics["value_loss"] == resumed.metrics["value_loss"]


def test_images_that_could_not_be_scored_take_no_part():
    policy, run = made("sd3")
    rewards = run.images.mean((1, 2, 3)).double()
    rewards[2] = float("nan")
    new = train_step(policy, run, feedback(run, rewards), TRAINER)
    assert new.metrics["skipped_updates"] == 0 and all(bool(v.isfinite().all()) for v in new.anchors[VALUE].values())
    alone = torch.full((8,), float("nan"), dtype=F64)
    alone[3] = 1.0
    expected, head, _, _ = value_baseline(policy, run, alone, 5)
    assert bool((expected[3] == 1).all()) and all(bool(v.isfinite().all()) for v in head.values())


def test_steps_below_zero_are_named():
    policy, run = made("sd3")
    with pytest.raises(ValueError, match="value steps: -1"):
        train_step(policy, run, feedback(run), Trainer(DPOK(value_steps=-1), Optimizer()))
    with pytest.raises(ValueError, match="no step was random"):
        train_step(policy, replace(run, trajectory=None), feedback(run), TRAINER)
