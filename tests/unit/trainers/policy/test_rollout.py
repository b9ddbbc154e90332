"""Rollout, replay and update on ComfyUI's real modules."""
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.ddpo import DDPO
from posttrain.trainers.dpok import DPOK
from posttrain.trainers.engine.replay import replay, steps_of
from posttrain.trainers.engine.update import SKIPPED, Optimizer, update
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.transitions import TRANSITIONS, log_prob
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.latents import from_latent_socket
from posttrain.trainers.sampling.draws import chosen_prompts, chosen_samples
from posttrain.trainers.sampling.rollout import rollout, rollout_from_latents
from posttrain.trainers.sampling.settings import WINDOWS, Sampling, noisy_range
from small_models import ARCHITECTURES, PlainVAE, prompts_for, trained_policy

SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4)


def made(kind: str, policy=None, **settings):
    policy = policy or trained_policy(kind)
    return policy, rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), 0)


def feedback(run, rule="group mean, global std"):
    values = run.images.mean((1, 2, 3)).double()
    return advantages(Scores(values, run.index, {}, {}), rule)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_replaying_a_trajectory_gives_its_log_probabilities(kind, guidance):
    policy, run = made(kind, guidance=guidance)
    (steps,) = steps_of(run, feedback(run), 1)
    assert len(steps) == run.trajectory.steps * 2
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for micro in steps:
            now = replay(net, bank, run, micro)
            again = log_prob(run.trajectory.states[micro.rows, micro.step + 1], now,
                             TRANSITIONS[run.trajectory.transition].form)
            assert torch.equal(again, run.trajectory.log_probs[micro.rows, micro.step])


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_the_first_ratio_is_one_and_its_gradient_is_reinforce(kind):
    policy, run = made(kind)
    feed = feedback(run)
    (steps,) = steps_of(run, feed, 1)
    micro = steps[0]
    with open_policy(policy) as net:
        def log_probs(bank):
            now = replay(net, bank, run, micro)
            return log_prob(run.trajectory.states[micro.rows, micro.step + 1], now)

        advantage = feed.values[micro.rows].float()
        old = run.trajectory.log_probs[micro.rows, micro.step]
        found = []
        for loss_of in (lambda lp: torch.maximum(-advantage * (lp - old).exp(), -advantage * (lp - old).exp().clamp(
                1 - 1e-4, 1 + 1e-4)).mean(), lambda lp: -(advantage * lp).mean()):
            bank = net.to_device(policy.bank, train=True)
            ratios = []

            def closure():
                lp = log_probs(bank)
                ratios.append((lp - old).exp())
                return loss_of(lp), {}

            net.gradients(closure, list(bank.values()))
            assert torch.equal(ratios[-1], torch.ones_like(old)), "nothing was updated: the ratio is exactly 1"
            found.append({k: v.grad for k, v in bank.items()})
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-5, atol=1e-9)


def test_a_batch_may_be_cut_anywhere():
    policy = trained_policy("sd3")
    whole, cut = (made("sd3", policy, batch_size=size)[1] for size in (8, 3))
    torch.testing.assert_close(whole.latents, cut.latents, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole.trajectory.states[:, 0], cut.trajectory.states[:, 0]), "the starting noise is the same"


def test_the_same_iteration_gives_the_same_rollout_and_another_does_not():
    policy = trained_policy("sd3")
    first, again = made("sd3", policy)[1], made("sd3", policy)[1]
    assert torch.equal(first.latents, again.latents)
    other = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 1)
    assert not torch.equal(first.latents, other.latents)


def test_same_start_shares_the_first_noise_of_a_prompt():
    _, run = made("sd3", same_start=True)
    start = run.trajectory.states[:, 0]
    assert torch.equal(start[0], start[3]) and not torch.equal(start[0], start[4])
    assert not torch.equal(run.latents[0], run.latents[3])


def test_a_window_keeps_only_its_steps_and_costs_only_them():
    policy, run = made("sd3", steps=6, first_noisy_step=1, noisy_steps=2)
    assert run.trajectory.states.shape[1] == 3 and run.trajectory.steps == 2
    assert torch.equal(run.trajectory.sigmas, run.sigmas[1:4])
    assert run.evaluations == 8 * 6
    new = train_step(policy, run, feedback(run), Trainer(FlowGRPO(watch_kl=False), Optimizer()))
    assert new.metrics["update_evaluations"] == 8 * 2, "a step outside the window is not evaluated again"


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize("batch_size", [8, 3])
def test_with_one_start_the_steps_before_the_window_are_computed_once_for_a_prompt(kind, batch_size):
    """Flow-GRPO-Fast: 2 prompts of 4 images, 6 steps, random from the third: 2 * 2 + 8 * 4 evaluations instead of 48."""
    settings = dict(steps=6, first_noisy_step=2, noisy_steps=2, same_start=True, batch_size=batch_size)
    policy, run = made(kind, **settings)
    assert run.evaluations == 2 * 2 + 8 * 4
    start = run.trajectory.states[:, 0]
    assert torch.equal(start[0], start[3]) and torch.equal(start[4], start[7]) and not torch.equal(start[0], start[4])
    assert len({float(image.sum()) for image in run.latents}) == 8
    told = []
    again = rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), 0, progress=lambda *a: told.append(a[:2]))
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1)), "the bar ends where the work does"
    assert torch.equal(again.latents, run.latents)
    new = train_step(policy, run, feedback(run), Trainer(FlowGRPO(watch_kl=False), Optimizer()))
    assert new.metrics["update_evaluations"] == 8 * 2 and new.metrics["ratio_largest_change"] == 0


def test_computed_once_or_for_each_image_the_head_of_a_window_is_the_same():
    policy, run = made("sd3", steps=6, first_noisy_step=2, noisy_steps=2, same_start=True)
    with open_policy(policy) as net:
        bank, sigmas = net.to_device(policy.bank), net.sigmas("simple", 6)
        samples = chosen_samples(2, replace(SMALL, same_start=True), 0)
        x = net.start(samples.noise(slice(0, 8)).start((16, 8, 8)), float(sigmas[0]))
        for i in range(2):
            x0 = net.denoise(x, sigmas[i].expand(8), prompts_for("sd3"), samples.index, 1.0, bank)
            x = x + (sigmas[i + 1] - sigmas[i]) * (x - x0) / sigmas[i]
    torch.testing.assert_close(run.trajectory.states[:, 0], x, rtol=1e-4, atol=1e-4)


def test_without_noise_the_rollout_is_eulers_and_has_no_trajectory():
    policy, run = made("sd3", transition="deterministic")
    assert run.trajectory is None
    with pytest.raises(ValueError, match="no step was random"):
        train_step(policy, run, feedback(run), Trainer(FlowGRPO(), Optimizer()))


@pytest.mark.parametrize("kind, transition, message", [
    ("sd15", "flow_sde", "is for flow models"), ("sd2_v", "flow_sde", "is for flow models"),
    ("sd3", "nonsense", "unknown name")])
def test_a_transition_that_does_not_fit_is_named(kind, transition, message):
    with pytest.raises(ValueError, match=message):
        made(kind, transition=transition, noise_level=0.5)


def test_one_step_leaves_nothing_to_train():
    with pytest.raises(ValueError, match="leaves no step to train"):
        made("sd3", steps=1)


@pytest.mark.parametrize("setting", ["steps", "images_per_prompt", "batch_size"])
def test_settings_below_their_least_value_are_named(setting):
    with pytest.raises(ValueError, match=setting):
        replace(SMALL, **{setting: 0})


@pytest.mark.parametrize("setting", ["noise_level", "guidance"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_that_nothing_can_be_sampled_with_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting}: .* choose 0 or more"):
        replace(SMALL, **{setting: value})


def test_an_eta_above_one_names_the_setting_as_the_node_does():
    with pytest.raises(ValueError, match="^noise level .* outside 0..1"):
        made("sd2_v", transition="ddim", noise_level=1.5)


def test_kl_off_costs_no_reference_evaluation():
    policy, run = made("sd3")
    plain = train_step(policy, run, feedback(run), Trainer(FlowGRPO(beta=0.0, watch_kl=False), Optimizer()))
    held = train_step(policy, run, feedback(run), Trainer(FlowGRPO(beta=0.1), Optimizer()))
    assert plain.metrics["update_evaluations"] == 8 * 3 and "kl" not in plain.metrics
    assert held.metrics["update_evaluations"] == 2 * 8 * 3 and held.metrics["kl"] > 0


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


def test_failed_rewards_are_counted_and_equal_ones_are_not_a_fault():
    policy, run = made("sd3")
    trainer = Trainer(FlowGRPO(), Optimizer())
    nothing = advantages(Scores(torch.full((8,), float("nan")), run.index, {}, {}))
    assert train_step(policy, run, nothing, trainer).metrics[SKIPPED] == 1
    equal = advantages(Scores(torch.ones(8), run.index, {}, {}))
    new = train_step(policy, run, equal, trainer)
    assert new.metrics[SKIPPED] == 0 and new.metrics["zero_spread_groups"] == 2 and new.step == 0


def test_all_prompts_are_used_before_one_comes_again():
    settings = replace(SMALL, prompts_per_iteration=4)
    seen = torch.cat([chosen_prompts(12, settings, i) for i in range(3)])
    assert sorted(seen.tolist()) == list(range(12))


def test_windows_stay_inside_the_steps():
    for window in WINDOWS:
        settings = replace(SMALL, steps=10, noisy_steps=3, window=window)
        ranges = [noisy_range(settings, i) for i in range(40)]
        assert all(0 <= a < b <= 9 and b - a == 3 for a, b in ranges)
        assert (len(set(ranges)) > 1) == (window != "fixed")
        if window == "random in the first half":
            assert {a for a, _ in ranges} == {0, 1, 2}


def test_a_slow_window_stays_for_25_iterations_and_comes_round_again():
    settings = replace(SMALL, steps=6, noisy_steps=3, window="moves along slowly")
    starts = [noisy_range(settings, i)[0] for i in range(100)]
    assert starts == [0] * 25 + [1] * 25 + [2] * 25 + [0] * 25


def test_a_rollout_from_latents_divides_them_among_the_prompts():
    policy = trained_policy("sd3")
    latents = torch.randn(4, 16, 8, 8)
    run = rollout_from_latents(policy, latents, prompts_for("sd3"), PlainVAE(), 0)
    assert run.index.tolist() == [0, 0, 1, 1] and run.trajectory is None
    with pytest.raises(ValueError, match="latent: the batch is empty"):
        rollout_from_latents(policy, latents[:0], prompts_for("sd3"), PlainVAE(), 0)
    for number in (3, -1):
        with pytest.raises(ValueError, match=f"prompt number: {number}, but there are 2"):
            rollout_from_latents(policy, latents, prompts_for("sd3"), PlainVAE(), number)
    with pytest.raises(ValueError, match="latent: its shape .*batch, channels"):
        from_latent_socket(policy.model, {"samples": latents[0]})
    with pytest.raises(ValueError, match="guidance"):
        rollout_from_latents(policy, latents, prompts_for("sd3"), PlainVAE(), 0, math.nan)
    with pytest.raises(ValueError, match="cannot be divided"):
        rollout_from_latents(policy, latents[:3], prompts_for("sd3"), PlainVAE(), 0)


@pytest.mark.parametrize("settings", [FlowGRPO(trust="guard", clip_range=0), FlowGRPO(trust="exact KL", clip_range=0),
                                      FlowGRPO(beta=0.05), DPOK(reward_weight=1.0)])
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
    for changes in ({"transition": "dance_sde", "noise_level": 0.3, "same_start": True},
                    {"transition": "flow_cps", "noise_level": 0.8, "noisy_steps": 2, "window": "moves along"}):
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


def test_rollout_and_train_step_work_as_nodes_run_them():
    """The host runs nodes in inference mode, and hands on what they made there."""
    policy, _ = made("sd3")
    with torch.inference_mode():
        run = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0)
        new = train_step(policy, run, feedback(run), Trainer(FlowGRPO(), Optimizer(average=0.9)))
        again = train_step(new, run, feedback(run), Trainer(FlowGRPO(), Optimizer(average=0.9)))
    assert again.step == 2 and not any(t.is_inference() for t in again.bank.values())
