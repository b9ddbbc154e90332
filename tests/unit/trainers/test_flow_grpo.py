"""Flow-GRPO on ComfyUI's real modules: its pulls, its trust regions, its relatives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores, score_rollout
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers.rollouts import feedback, made
from posttrain.tests.unit.trainers.steps_by_hand import PLAIN, agrees, by_hand, clipped, distance
from posttrain.trainers.dpok import DPOK
from posttrain.trainers.engine.update import SKIPPED, Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.flow_grpo import TRUST_REGIONS, FlowGRPO, carries, usual_clip
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.paths import FLOW
from posttrain.trainers.noise.transitions import flow_sde
from posttrain.trainers.sampling.settings import BRANCHES, EACH_PROMPT
from small_models import trained_policy


def test_kl_off_costs_no_reference_evaluation():
    policy, run = made("sd3")
    plain = train_step(policy, run, feedback(run), Trainer(FlowGRPO(beta=0.0, watch_kl=False), Optimizer()))
    held = train_step(policy, run, feedback(run), Trainer(FlowGRPO(beta=0.1), Optimizer()))
    assert plain.metrics["update_evaluations"] == 8 * 3 and "kl" not in plain.metrics
    assert held.metrics["update_evaluations"] == 2 * 8 * 3 and held.metrics["kl"] > 0


def test_failed_rewards_are_counted_and_equal_ones_are_not_a_fault():
    policy, run = made("sd3")
    trainer = Trainer(FlowGRPO(), Optimizer())
    nothing = advantages(Scores(torch.full((8,), float("nan")), run.index, {}, {}))
    assert train_step(policy, run, nothing, trainer).metrics[SKIPPED] == 1
    equal = advantages(Scores(torch.ones(8), run.index, {}, {}))
    new = train_step(policy, run, equal, trainer)
    assert new.metrics[SKIPPED] == 0 and new.metrics["zero_spread_groups"] == 2 and new.step == 0


@pytest.mark.parametrize(
    "settings",
    [
        FlowGRPO(trust="guard", clip_range=0),
        FlowGRPO(trust="exact KL", clip_range=0),
        FlowGRPO(beta=0.05),
        DPOK(reward_weight=1.0),
    ],
)
def test_every_likelihood_trainer_starts_along_the_same_gradient(settings):
    """Before the first optimizer step all of them are REINFORCE, up to a weight of each step."""
    policy, run = made("sd3", noisy_steps=1)
    plain = train_step(policy, run, feedback(run), Trainer(FlowGRPO(), Optimizer(max_grad_norm=0)))
    other = train_step(policy, run, feedback(run), Trainer(settings, Optimizer(max_grad_norm=0)))
    if getattr(settings, "beta", 0) or getattr(settings, "kl_weight", 0):
        assert other.metrics["kl"] > 0
        return
    keys = [k for k in plain.optimizer if k.endswith("exp_avg")]
    first, second = (torch.cat([p.optimizer[k].flatten() for k in keys]) for p in (plain, other))
    assert torch.nn.functional.cosine_similarity(first, second, dim=0) > 0.9999


def test_dancegrpo_cps_and_sliding_windows_are_settings_of_the_rollout():
    for changes in (
        {"transition": "dance_sde", "noise_level": 0.3, "same_start": True},
        {"transition": "flow_cps", "noise_level": 0.8, "noisy_steps": 2, "window": "moves along"},
    ):
        policy, run = made("sd3", steps=5, **changes)
        new = train_step(policy, run, feedback(run), Trainer(FlowGRPO(clip_range=1e-5), Optimizer()))
        assert new.metrics["updates"] == 1 and new.metrics["ratio_largest_change"] == 0


def test_guard_and_coefficient_preserving_sampling_do_not_go_together():
    """Its log-probability is not a Gaussian's: what guard adds would not make up for the ratio's bias but be one."""
    policy, run = made("sd3", transition="flow_cps", noise_level=0.8)
    with pytest.raises(ValueError, match="'guard' corrects.*flow_cps.*flow_sde"):
        train_step(policy, run, feedback(run), Trainer(FlowGRPO(trust="guard", clip_range=0), Optimizer()))


def test_an_unknown_trust_region_is_named():
    policy, run = made("sd3")
    with pytest.raises(ValueError, match="trust region"):
        train_step(policy, run, feedback(run), Trainer(FlowGRPO(trust="none"), Optimizer()))


@pytest.fixture(scope="module")
def later():
    """(policy, rollout, advantages): the policy has moved since it sampled."""
    _, run = made("sd3")
    return trained_policy("sd3", scale=0.1), run, feedback(run)


def by_ratio(now, clip, beta):
    return clipped((now.log_prob - now.old_log_prob).exp(), now.advantage, clip) + beta * now.kl


def by_guard(now, clip, beta):
    away = distance(now.mean, now.old_mean, now.std)
    ratio = (now.std * (now.log_prob - now.old_log_prob + away)).exp()
    return clipped(ratio, now.advantage, clip) / now.delta + beta * now.kl


def by_exact_kl(now, threshold, beta):
    ratio = (now.log_prob - now.old_log_prob).exp()
    far = distance(now.mean, now.old_mean, now.std) >= threshold
    dropped = far & ((ratio - 1) * now.advantage > 0)
    return torch.where(dropped, 0.0, -now.advantage * ratio) + beta * now.kl


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize(
    "trust, formula, clip",
    [("clipped ratio", by_ratio, 0.01), ("guard", by_guard, 0.004), ("exact KL", by_exact_kl, 0.02)],
)
def test_a_policy_that_has_moved_is_pulled_as_the_formula_says(later, trust, formula, clip, beta):
    """Loss and gradient of the whole train step, with some rows inside and some outside of the trust region."""
    policy, run, feed = later
    settings = FlowGRPO(clip_range=clip, beta=beta, trust=trust, watch_kl=False)
    new = train_step(policy, run, feed, Trainer(settings, PLAIN))
    agrees(new, by_hand(policy, run, feed.values, lambda now: formula(now, clip, beta)))
    assert 0 < new.metrics["clip_fraction"] < 1


def test_without_a_clip_range_each_trust_region_takes_its_papers(later):
    usual = {("clipped ratio", "gaussian"): 1e-4, ("clipped ratio", "cps"): 1e-5, ("guard", "gaussian"): 2e-6,
             ("exact KL", "gaussian"): 1e-5, ("exact KL", "cps"): 1e-5}  # fmt: skip
    assert {key: usual_clip(*key) for key in usual} == usual and {trust for trust, _ in usual} == set(TRUST_REGIONS)
    policy, run, feed = later
    for trust in TRUST_REGIONS:
        left_out, said = (
            train_step(policy, run, feed, Trainer(FlowGRPO(clip_range=clip, trust=trust, watch_kl=False), PLAIN))
            for clip in (0.0, usual_clip(trust, "gaussian"))
        )
        assert left_out.metrics["loss"] == said.metrics["loss"]


@pytest.mark.parametrize("trust, formula, clip", [("clipped ratio", by_ratio, 0.01), ("exact KL", by_exact_kl, 0.02)])
def test_steps_weigh_by_their_noise_on_average_as_much_as_even(later, trust, formula, clip):
    """Over the mean of all steps but the last, whether they are in this iteration's window or not; the KL keeps its weight."""
    policy, run, feed = later
    sigmas = run.sigmas
    rest = 1 - torch.cat([sigmas[1:2], sigmas[1:-2]])
    usual = (0.7 * (sigmas[:-2] / rest).sqrt() * (sigmas[:-2] - sigmas[1:-1]).sqrt()).mean()

    def weighted(now):
        return now.std / usual * formula(now, clip, 0.0) + 0.7 * now.kl

    settings = FlowGRPO(clip_range=clip, beta=0.7, trust=trust, watch_kl=False, step_weights="by noise")
    agrees(train_step(policy, run, feed, Trainer(settings, PLAIN)), by_hand(policy, run, feed.values, weighted))


def test_a_window_of_one_step_keeps_the_weight_of_its_place():
    policy, run = made("sd3", steps=6, first_noisy_step=3, noisy_steps=1)
    even, weighed = (
        train_step(policy, run, feedback(run), Trainer(FlowGRPO(step_weights=weights), PLAIN))
        for weights in ("even", "by noise")
    )
    assert weighed.metrics["grad_norm"] < 0.95 * even.metrics["grad_norm"], "a late step has less noise than most"


@pytest.mark.parametrize("trust, formula, clip", [("clipped ratio", by_ratio, 0.01), ("exact KL", by_exact_kl, 0.02)])
def test_steps_are_weighed_so_that_their_gradients_are_alike(later, trust, formula, clip):
    """Of a step, std over what of the velocity is in its mean, by differences; over the mean of all steps but the last."""
    policy, run, feed = later
    strengths = {}
    for sigma, after in zip(run.sigmas[:-2].double(), run.sigmas[1:-1].double()):
        x, levels = torch.full((1, 1), 0.3).double(), (sigma.reshape(1), after.reshape(1))
        ends = [flow_sde(0.7)(FLOW, x, x - sigma * v, *levels) for v in (0.3, -0.7)]
        strengths[round(float(ends[0].std), 5)] = float(ends[0].std / (ends[0].mean - ends[1].mean).abs())
    mean = sum(strengths.values()) / len(strengths)

    def weighted(now):
        return strengths[round(float(now.std[0]), 5)] / mean * formula(now, clip, 0.0) + 0.7 * now.kl

    settings = FlowGRPO(clip_range=clip, beta=0.7, trust=trust, watch_kl=False, step_weights="by gradient")
    agrees(train_step(policy, run, feed, Trainer(settings, PLAIN)), by_hand(policy, run, feed.values, weighted))
    assert len(strengths) == len(run.sigmas) - 2 and max(strengths.values()) > 1.5 * min(strengths.values())


def test_with_one_step_for_each_prompt_the_mean_is_that_of_the_steps_that_may_be_drawn():
    """Two prompts at steps of other weights: the same gradient as that of the steps alone, weighed."""
    policy, run = made("sd3", steps=6, window=EACH_PROMPT, noisy_steps=4)
    feed, there = feedback(run), run.trajectory
    std, carried = carries(FLOW, flow_sde(0.7), there.sigmas)
    weights = ((std / carried) / (std / carried).mean()).float()
    picked = there.chosen.float() * weights * there.steps
    even = train_step(policy, run, feed, Trainer(FlowGRPO(watch_kl=False, step_weights="by gradient"), PLAIN))
    whole = replace(run, trajectory=replace(there, chosen=None))
    # quiet steps have no likelihood, and count nothing here
    agrees(even, by_hand(policy, whole, feed.values[:, None] * picked, lambda now: by_ratio(now, 1e-4, 0.0)))


@pytest.mark.parametrize("kind, transition", [("sd3", "flow_sde"), ("sd3", "flow_cps"), ("sd15", "ddim")])
@pytest.mark.parametrize("batch_size", [4, 8])
def test_with_one_step_for_each_prompt_only_that_one_is_trained(kind, transition, batch_size):
    policy, run = made(kind, steps=6, transition=transition, noise_level=0.7, window=EACH_PROMPT, batch_size=batch_size)
    chosen = run.trajectory.chosen
    assert chosen.sum(1).tolist() == [1] * 8 and len({int(k) for k in chosen[::4].int().argmax(1)}) == 2
    calls = []
    before = policy.model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    new = train_step(policy, run, feedback(run), Trainer(FlowGRPO(watch_kl=False), Optimizer(learning_rate=1e-3)))
    before.remove()
    assert new.metrics["update_evaluations"] == 8 * (1 if batch_size == 4 else 2), "a batch is replayed at its prompts' steps"
    assert new.metrics["ratio_largest_change"] < 1e-3 and new.metrics["grad_norm"] > 0 and calls


@pytest.mark.parametrize("trust", ["clipped ratio", "exact KL", "guard"])
def test_branches_are_trained_at_the_step_that_they_leave_at(trust):
    policy, run = made("sd3", steps=5, window=BRANCHES, images_per_prompt=8, batch_size=4)
    feed = advantages(score_rollout(ColourReward("brightness"), run))
    assert feed.stats["groups"] == 2 * 4 and not feed.values.view(8, 2).sum(1).abs().gt(1e-9).any()
    weights = "even" if trust == "guard" else "by noise"
    settings = FlowGRPO(watch_kl=False, trust=trust, step_weights=weights)
    new = train_step(policy, run, feed, Trainer(settings, Optimizer(learning_rate=1e-3)))
    assert new.metrics["update_evaluations"] == 4 * 4 * 2, "four batches of two steps each"
    assert new.metrics["ratio_largest_change"] < 1e-3 and new.metrics["grad_norm"] > 0


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"trust": "guard"}, "step weights: 'guard' makes the steps alike"),
        ({"step_weights": "mine"}, "step weights: unknown 'mine'"),
    ],
)
def test_step_weights_that_do_not_fit_are_named(settings, words):
    policy, run = made("sd3")
    with pytest.raises(ValueError, match=words):
        train_step(policy, run, feedback(run), Trainer(FlowGRPO(**{"step_weights": "by noise"} | settings), Optimizer()))
