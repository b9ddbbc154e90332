"""The rollout on ComfyUI's real modules: what it draws, what it costs, what it keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import comfy.sample
import comfy.samplers
import pytest
import torch
from posttrain.nodes.loop.train import one_iteration
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.rules.colour import ColourReward
from posttrain.rewards.rules.jpeg import JPEGReward
from posttrain.tests.unit.trainers.rollouts import SMALL, feedback, made
from posttrain.trainers import methods
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.flow_grpo import FROM_MEANS, FlowGRPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.transitions import Gaussian, deterministic, log_prob, transition_named
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.latents import from_latent_socket
from posttrain.trainers.run.steering import numbers_of, turned
from posttrain.trainers.sampling.draws import chosen_samples
from posttrain.trainers.sampling.rollout import rollout, rollout_from_latents
from posttrain.trainers.sampling.settings import BRANCHES, EACH_PROMPT, Sampling, steps_of_prompts
from small_models import SIZE, PlainVAE, conditioning, prompts_for, trained_policy


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
    again = rollout(
        policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), 0, progress=lambda *a: told.append(a[:2])
    )
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


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_prompts_images_share_one_random_step_and_all_others_are_the_quiet_samplers(kind):
    policy, run = made(kind, steps=6, first_noisy_step=1, noisy_steps=3, window=EACH_PROMPT)
    there = run.trajectory
    assert there.steps == 3 and torch.equal(there.chosen[0:4], there.chosen[:1].expand(4, -1))
    assert_random_at_its_own_steps_only(policy, run)


def assert_random_at_its_own_steps_only(policy, run):
    """Of two prompts' images, a batch each; at all other steps the sampler is the quiet one."""
    there, half = run.trajectory, len(run.index) // 2
    with open_policy(policy) as net:
        step = transition_named(there.transition, there.strength, net.path)
        for k in range(3):
            x = there.states[:, k]
            sigma, after = there.sigmas[k].expand(len(x)), there.sigmas[k + 1].expand(len(x))
            x0 = torch.cat([net.denoise(x[rows], sigma[:half], run.prompts, run.index[rows], 1.0, net.to_device(policy.bank))
                            for rows in (slice(0, half), slice(half, None))])  # fmt: skip
            quiet, own = deterministic()(net.path, x, x0, sigma, after).mean, there.random(slice(None), k)
            apart = (there.states[:, k + 1] - quiet).abs().amax((1, 2, 3))
            assert bool((apart[~own] < 1e-3).all()) and bool((apart[own] > 0.1).all())
            likely = log_prob(there.states[own, k + 1], _rows(step(net.path, x, x0, sigma, after), own))
            torch.testing.assert_close(there.log_probs[own, k], likely, rtol=1e-3, atol=1e-3)


def _rows(step: Gaussian, rows: torch.Tensor) -> Gaussian:
    return Gaussian(step.mean[rows], step.std[rows])


def test_the_step_of_a_prompt_is_drawn_anew_in_each_iteration_and_evenly_whatever_the_others_are():
    sampling = Sampling(steps=12, window=EACH_PROMPT, seed=3)
    index = torch.arange(40).repeat_interleave(3)
    drawn = torch.stack([steps_of_prompts(sampling, k, index, (2, 8)) for k in range(60)])
    assert torch.equal(drawn[:, ::3], drawn[:, 1::3]) and int(drawn.min()) == 2 and int(drawn.max()) == 7
    shares = torch.bincount(drawn[:, ::3].flatten(), minlength=8)[2:] / 2400
    assert bool(((shares - 1 / 6).abs() < 0.03).all())
    assert torch.equal(steps_of_prompts(sampling, 5, torch.tensor([7, 9]), (2, 8)), drawn[5, [21, 27]])
    assert steps_of_prompts(replace(sampling, window="fixed"), 0, index, (2, 8)) is None


BRANCHING = dict(steps=6, first_noisy_step=1, noisy_steps=3, window=BRANCHES, images_per_prompt=6)


def test_branches_leave_one_trunk_each_at_its_step_and_go_on_quietly():
    policy, run = made("sd3", **BRANCHING, batch_size=6)
    there = run.trajectory
    assert there.branch.tolist() == [0, 0, 1, 1, 2, 2] * 2 and there.chosen.sum(1).tolist() == [1] * 12
    assert run.groups.tolist() == [3 * int(prompt) + k for prompt in run.index[::6] for k in (0, 0, 1, 1, 2, 2)]
    assert_random_at_its_own_steps_only(policy, run)
    for k in range(3):
        trunk = there.states[2 * k : 6, k]
        torch.testing.assert_close(trunk, trunk[:1].expand_as(trunk), rtol=1e-4, atol=1e-4)
    assert len({float(image.sum()) for image in run.latents}) == 12


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_trunk_is_walked_once_and_a_batch_of_branches_may_be_cut_anywhere(kind):
    """2 prompts of 6 branches, 6 steps, random are the second to the fourth. The trunk takes 3 steps; pairs that leave together
    5, 4 and 3 of their own; a batch begins where its first branch leaves."""
    policy = trained_policy(kind)
    runs = {size: made(kind, policy, **BRANCHING, batch_size=size)[1] for size in (2, 4, 5, 12)}
    assert runs[2].evaluations == 2 * 3 + 2 * (2 * 5 + 2 * 4 + 2 * 3)
    assert runs[4].evaluations == 2 * 3 + 4 * 5 + 4 * 5 + 4 * 4
    assert runs[12].evaluations == 2 * 3 + 12 * 5
    for size in (4, 5, 12):
        torch.testing.assert_close(runs[size].latents, runs[2].latents, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(runs[size].trajectory.states, runs[2].trajectory.states, rtol=1e-3, atol=1e-3)


def test_a_trunk_with_one_random_step_and_one_without_noise():
    _, one = made("sd3", steps=4, noisy_steps=1, window=BRANCHES)
    assert one.trajectory.branch.tolist() == [0] * 8 and one.groups.unique().tolist() == one.index.unique().tolist()
    _, quiet = made("sd3", window=BRANCHES, transition="deterministic")
    assert quiet.trajectory is None and torch.equal(quiet.groups, quiet.index)
    assert len({float(image.sum()) for image in quiet.latents}) == 8, "images of a quiet sampler are no copies of one"


@pytest.mark.parametrize("images", [3, 4, 8])
def test_branches_that_cannot_be_dealt_evenly_are_refused(images):
    with pytest.raises(ValueError, match=f"images per prompt: {images} cannot be dealt evenly to 3 random steps.*choose 6, 9"):
        made("sd3", **BRANCHING | {"images_per_prompt": images})


def test_without_noise_the_rollout_is_eulers_and_has_no_trajectory():
    policy, run = made("sd3", transition="deterministic")
    assert run.trajectory is None
    with pytest.raises(ValueError, match="no step was random"):
        train_step(policy, run, feedback(run), Trainer(FlowGRPO(), Optimizer()))


@pytest.mark.parametrize(
    "kind, transition, message",
    [
        ("sd15", "flow_sde", "is for flow models"),
        ("sd2_v", "flow_sde", "is for flow models"),
        ("sd3", "nonsense", "unknown name"),
    ],
)
def test_a_transition_that_does_not_fit_is_named(kind, transition, message):
    with pytest.raises(ValueError, match=message):
        made(kind, transition=transition, noise_level=0.5)


def test_one_step_leaves_nothing_to_train():
    with pytest.raises(ValueError, match="leaves no step to train"):
        made("sd3", steps=1)


def test_an_eta_above_one_names_the_setting_as_the_node_does():
    with pytest.raises(ValueError, match="^noise level .* outside 0..1"):
        made("sd2_v", transition="ddim", noise_level=1.5)


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


def test_rollout_and_train_step_work_as_nodes_run_them():
    """The host runs nodes in inference mode, and hands on what they made there."""
    policy, _ = made("sd3")
    with torch.inference_mode():
        run = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0)
        new = train_step(policy, run, feedback(run), Trainer(FlowGRPO(), Optimizer(average=0.9)))
        again = train_step(new, run, feedback(run), Trainer(FlowGRPO(), Optimizer(average=0.9)))
    assert again.step == 2 and not any(t.is_inference() for t in again.bank.values())


FEW = dict(width=64, height=64, prompts_per_iteration=1, images_per_prompt=2, batch_size=2)


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_without_noise_it_is_the_hosts_euler_sampler(kind, scheduler):
    """Six steps: of ddim_uniform, the host makes seven."""
    policy, sampling = trained_policy(kind), Sampling(steps=6, scheduler=scheduler, transition="deterministic", **FEW)
    ours = rollout(policy, prompts_for(kind), PlainVAE(), sampling, 0, weights="reference")
    samples = chosen_samples(2, sampling, 0)
    noise = samples.noise(slice(None)).start(SIZE[kind])
    positive = conditioning(kind, 1 + int(samples.index[0]))
    theirs = comfy.sample.sample(
        policy.model, noise, 6, 1.0, "euler", scheduler, positive, positive, torch.zeros_like(noise), seed=0, disable_pbar=True
    )
    torch.testing.assert_close(ours.latents, policy.model.model.process_latent_in(theirs), rtol=1e-3, atol=1e-3)


def test_random_steps_of_a_longer_schedule_leave_no_noise():
    policy = trained_policy("sd3")
    made = rollout(policy, prompts_for("sd3"), PlainVAE(), Sampling(steps=6, scheduler="ddim_uniform", **FEW), 0)
    assert len(made.sigmas) == 8 and made.sigmas[-1] == 0
    assert made.evaluations == 2 * 7
    assert (made.trajectory.steps, made.left_out) == (4, 2), (
        "the first and the last but one have more noise than they can pay for"
    )


@pytest.mark.parametrize("trust", ["clipped ratio", "guard", "exact KL"])
def test_the_means_of_the_steps_stay_only_where_a_trainer_reads_them(trust, monkeypatch):
    """They are as large as the states, so without them a rollout needs half: 8 images of 2 steps at 3 states."""
    seen, real = [], methods.train_step
    monkeypatch.setattr(methods, "train_step", lambda policy, run, *rest: seen.append(run) or real(policy, run, *rest))
    policy, trainer = trained_policy("sd3"), Trainer(FlowGRPO(trust=trust, clip_range=0.1), Optimizer())
    new, _ = one_iteration(policy, prompts_for("sd3"), PlainVAE(), SMALL, JPEGReward(), trainer, "group mean, global std", 0)
    assert new.metrics["updates"] == 1
    steps, (run,) = seen[0].trajectory, seen
    read = steps.states.nbytes + steps.log_probs.nbytes
    if trust != "clipped ratio":
        assert steps.means.shape == steps.states[:, 1:].shape
        return
    assert steps.means is None
    kept = sum(value.nbytes for value in vars(steps).values() if isinstance(value, torch.Tensor))
    assert kept <= 1.01 * read
    with_means = replace(run, trajectory=rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0).trajectory)
    assert with_means.trajectory.means is not None
    settings = Trainer(FlowGRPO(clip_range=0.1), Optimizer())
    again, other = (train_step(policy, each, feedback(run), settings) for each in (run, with_means))
    assert all(torch.equal(a, b) for a, b in zip(again.bank.values(), other.bank.values(), strict=True)), "bit-equal"


def test_a_changed_weight_of_a_reward_scores_the_next_iteration_and_is_told():
    reward = WeightedSum(((JPEGReward(), 1.0), (ColourReward("brightness", "more"), 2.0)))
    first, second = (r.info.name for r, _ in reward.members)
    policy, trainer, means = trained_policy("sd3"), Trainer(FlowGRPO(), Optimizer()), {}
    for weight in (None, 0.0, -3.0):
        if weight is not None:
            policy = turned(policy, {f"weight of {second}": weight}, "")
        new, _ = one_iteration(policy, prompts_for("sd3"), PlainVAE(), SMALL, reward, trainer, "group mean, global std", 0)
        assert numbers_of(new)[f"weight of {second}"] == (2.0 if weight is None else weight)
        assert numbers_of(new)[f"weight of {first}"] == 1.0
        means[weight] = new.metrics["reward_mean"]
        parts = {name: new.metrics[f"reward/{name}"] for name in (first, second)}
    assert means[0.0] == pytest.approx(parts[first]) and means[None] == pytest.approx(parts[first] + 2 * parts[second])
    assert means[-3.0] == pytest.approx(parts[first] - 3 * parts[second])


@pytest.mark.parametrize("trust", FROM_MEANS)
def test_a_rollout_without_means_is_refused_where_they_are_read(trust):
    policy = trained_policy("sd3")
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0, keep_means=False)
    with pytest.raises(ValueError, match="trust: .* made without"):
        train_step(policy, run, feedback(run), Trainer(FlowGRPO(trust=trust), Optimizer()))
