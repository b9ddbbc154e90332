"""What a step through the reward keeps in memory, decodes, refuses and learns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import comfy.latent_formats
import comfy.model_management
import pytest
import torch
from posttrain.rewards.base.reward import RewardInfo
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.rules.colour import ColourReward
from posttrain.rewards.rules.jpeg import JPEGReward
from posttrain.tests.unit.trainers import through_reward
from posttrain.tests.unit.trainers.kept_for_backward import Kept
from posttrain.tests.unit.trainers.through_reward import TOY, demo_world
from posttrain.trainers.alignprop import AlignProp
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.drtune import DRTune
from posttrain.trainers.engine import reward_walk
from posttrain.trainers.engine.reward_walk import Course, Look, Walk
from posttrain.trainers.engine.update import SKIPPED, Optimizer
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, backprop_step, goes_through_reward, train_step
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.latents import to_images
from posttrain.trainers.refl import ReFL
from posttrain.trainers.run.steering import turned
from posttrain.trainers.sampling.rollout import rollout, rollout_from_latents
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.srpo import SRPO
from small_models import prompts_for, small_vae, trained_policy

SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=2, batch_size=4)
BRIGHT = ColourReward("brightness")


@pytest.fixture(scope="module")
def demo():
    return demo_world()


def stepped(policy, kind: str, settings=DRaFT(), reward=BRIGHT, sampling=SMALL, optimizer=Optimizer(), **options):
    return backprop_step(policy, prompts_for(kind), small_vae(kind), reward, sampling, Trainer(settings, optimizer), **options)


def kept_and_called(policy, prompts, vae, settings, sampling) -> tuple[int, int]:
    """(most bytes kept, forward calls of the network module) of one step on one micro-batch."""
    calls, network = [], policy.model.model.diffusion_model
    hook = network.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with Kept([*network.parameters(), *vae.first_stage_model.parameters()]) as kept:
            backprop_step(policy, prompts, vae, BRIGHT, sampling, Trainer(settings, Optimizer()))
    finally:
        hook.remove()
    return kept.most, len(calls)


@pytest.mark.parametrize("kind", ["sd15", "sd3", "demo"])
def test_memory_does_not_grow_with_the_steps_and_each_costs_one_more_forward(kind, demo):
    """In the demo world the decoder keeps nothing, so the network alone is measured there."""
    if kind == "demo":
        case, steps, sampling = (create_policy(demo[0], Recipe(rank=8)), *demo[1:]), 20, TOY
    else:
        case, steps, sampling = (trained_policy(kind), prompts_for(kind), small_vae(kind)), 6, replace(SMALL, batch_size=2)
    sampling = replace(sampling, steps=steps)
    one, calls = kept_and_called(*case, DRaFT(steps=1), sampling)
    looks = 1 if kind == "demo" else 2
    assert calls == looks * (steps + 1)
    for settings, carried in ((DRaFT(steps=2), 2), (DRaFT(steps=0), steps), (DRTune(steps=steps, early_stop=0), steps)):
        many, calls = kept_and_called(*case, settings, sampling)
        assert calls == looks * (steps + carried)
        assert one <= many <= 1.15 * one, f"{settings} keeps {many / one:.3f} times what one step keeps"


def test_low_memory_trains_the_same():
    policy = trained_policy("sd15")
    plain, low = (stepped(policy, "sd15", DRaFT(steps=2), optimizer=Optimizer(low_memory=on))[0] for on in (False, True))
    assert low.metrics["grad_norm"] == pytest.approx(plain.metrics["grad_norm"], rel=1e-3)


def test_works_as_nodes_run_it():
    """The host runs nodes in inference mode, and the model, the VAE and the prompts were made there."""
    with torch.inference_mode():
        vae, prompts = small_vae("sd3"), prompts_for("sd3")
        policy = create_policy(trained_policy("sd3").model, Recipe(rank=4))
        new, images = backprop_step(policy, prompts, vae, BRIGHT, SMALL, Trainer(DRaFT(steps=2), Optimizer()))
        again, _ = backprop_step(new, prompts, vae, BRIGHT, SMALL, Trainer(DRaFT(steps=2), Optimizer()), 1)
    assert again.step == 2 and images.shape == (4, 64, 64, 3)
    assert not any(t.is_inference() for t in again.bank.values())
    assert float(to_images(policy.model, vae, torch.zeros(1, 16, 8, 8)).mean()) > 0, "the VAE still serves others"


@pytest.mark.parametrize("settings", [DRaFT(), DRaFT(extra_noises=1), AlignProp(), ReFL(), DRTune()])
def test_a_batch_may_be_cut_anywhere(settings):
    policy = trained_policy("sd3")
    whole, cut = (stepped(policy, "sd3", settings, sampling=replace(SMALL, batch_size=size)) for size in (4, 3))
    assert cut[0].metrics["grad_norm"] == pytest.approx(whole[0].metrics["grad_norm"], rel=1e-3)
    torch.testing.assert_close(cut[1], whole[1], rtol=1e-4, atol=1e-4)
    assert cut[0].metrics["reward_mean"] == pytest.approx(whole[0].metrics["reward_mean"], rel=1e-5)


def test_it_samples_what_the_rollout_samples():
    policy, prompts, vae = trained_policy("sd3"), prompts_for("sd3"), small_vae("sd3")
    for sampling in (replace(SMALL, transition="deterministic"), replace(SMALL, transition="flow_sde", noise_level=0.5)):
        _, images = backprop_step(policy, prompts, vae, BRIGHT, sampling, Trainer(DRaFT(), Optimizer()), 3)
        torch.testing.assert_close(images, rollout(policy, prompts, vae, sampling, 3).images, rtol=1e-5, atol=1e-5)


def test_each_update_samples_its_own_part_with_the_newer_policy():
    policy = trained_policy("sd3")
    new, images = stepped(policy, "sd3", sampling=replace(SMALL, batch_size=2), optimizer=Optimizer(updates=2))
    assert new.step == 2 and new.metrics["updates"] == 2 and len(images) == 4
    assert new.iteration == 1 and new.metrics["update_evaluations"] == 4 * 4


def test_members_of_a_sum_are_reported():
    both = WeightedSum(((BRIGHT, 1.0), (ColourReward("contrast"), 2.0)))
    metrics = stepped(trained_policy("sd3"), "sd3", reward=both)[0].metrics
    assert metrics["reward_mean"] == pytest.approx(metrics["reward/brightness"] + 2 * metrics["reward/contrast"], rel=1e-5)


@dataclass(frozen=True)
class Odd:
    """A reward with a fault: what happens to the scores."""

    fault: str
    info = RewardInfo("odd", None, None, False, True, "")

    def __call__(self, images, prompts):
        values = images.mean((1, 2, 3))
        if self.fault == "detached":
            return values.detach()
        if self.fault == "count":
            return values[:1]
        if self.fault == "unloads":
            comfy.model_management.unload_all_models()
            return values
        failed = torch.arange(len(values)) < {"one failed": 1, "none": 0}.get(self.fault, len(values))
        return values.masked_fill(failed, torch.nan)


@pytest.mark.parametrize(
    "reward, error, words",
    [
        (JPEGReward(), ValueError, "'JPEG compressibility' has no gradient.*colour statistics.*Flow-GRPO"),
        (WeightedSum(((BRIGHT, 1.0), (JPEGReward(), 1.0))), ValueError, "JPEG compressibility.*has no gradient"),
        (ColourReward("clipped pixels"), ValueError, "clipped pixels"),
        (Odd("detached"), ValueError, "'odd' says that it is differentiable"),
        (Odd("count"), ValueError, "one number per image"),
        (Odd("unloads"), RuntimeError, "do not fit into memory together"),
    ],
)
def test_rewards_that_cannot_serve_are_named(reward, error, words):
    with pytest.raises(error, match=words):
        stepped(trained_policy("sd3"), "sd3", reward=reward)


def test_failed_rewards_are_left_out_and_counted():
    policy = trained_policy("sd3")
    one, _ = stepped(policy, "sd3", reward=Odd("one failed"))
    assert one.metrics["failed"] == 1 and one.metrics["updates"] == 1 and one.metrics["grad_norm"] > 0
    none, _ = stepped(policy, "sd3", AlignProp(), reward=Odd("all failed"))
    assert none.metrics["failed"] == 4 and none.metrics[SKIPPED] == 1 and none.step == 0
    assert all(torch.equal(none.bank[k], policy.bank[k]) for k in policy.bank) and "highest_mean_reward" not in none.memory


@pytest.mark.parametrize(
    "settings, words",
    [
        (DRaFT(steps=5), "5 is not possible with 4 sampling steps"),
        (DRaFT(steps=-1), "-1 is not possible"),
        (DRaFT(steps=2, extra_noises=1), "extra noises"),
        (DRTune(steps=9), "trained steps"),
        (DRTune(steps=0), "trained steps"),
        (DRTune(early_stop=4), "early stop"),
        (AlignProp(truncation="none"), "truncation"),
        (ReFL(earliest=0.9, latest=0.5), "earliest"),
        (ReFL(pretrain_weight=1.0), "pretraining images"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        stepped(trained_policy("sd3"), "sd3", settings)


def test_the_wrong_step_for_a_trainer_says_which_is_right():
    policy, prompts = trained_policy("sd3"), prompts_for("sd3")
    grpo, draft = Trainer(FlowGRPO(), Optimizer()), Trainer(DRaFT(), Optimizer())
    assert goes_through_reward(draft) and not goes_through_reward(grpo)
    with pytest.raises(ValueError, match="FlowGRPO learns from a rollout.*Train Step"):
        backprop_step(policy, prompts, small_vae("sd3"), BRIGHT, SMALL, grpo)
    made = rollout_from_latents(policy, torch.randn(2, 16, 8, 8), prompts, small_vae("sd3"), 0)
    with pytest.raises(ValueError, match="DRaFT makes its own images.*through the reward"):
        train_step(policy, made, None, draft)


STEPS = through_reward.STEPS


@pytest.mark.parametrize(
    "settings, calls",
    [
        (DRaFT(), STEPS),
        (DRaFT(steps=0), STEPS),
        (DRaFT(extra_noises=2), STEPS + 2),
        (DRTune(early_stop=0), STEPS),
        (SRPO("light", "dark"), STEPS + 2),
    ],
)
def test_evaluations_are_counted(settings, calls):
    new, _ = through_reward.stepped(trained_policy("sd3"), "sd3", settings, reward=through_reward.Wording())
    assert new.metrics["update_evaluations"] == calls * 2 * 2
    assert {"reward_mean", "reward_std", "failed", "grad_norm", "loss", "updates", "learning_rate"} <= new.metrics.keys()


PAIRS = replace(SMALL, batch_size=2)


def test_a_noise_level_makes_the_usual_transition_random_and_without_one_it_is_not():
    policy, one_each = trained_policy("sd3"), replace(SMALL, images_per_prompt=1, steps=3)
    usual, named, none = (
        stepped(policy, "sd3", sampling=replace(one_each, transition=transition, noise_level=level))[1]
        for transition, level in (("auto", 0.5), ("flow_sde", 0.5), ("deterministic", 0.0))
    )
    torch.testing.assert_close(usual, named)
    assert float((usual - none).abs().max()) > 1e-3


def test_the_pictures_are_as_wide_and_high_as_the_settings_say():
    _, images = stepped(trained_policy("sd3"), "sd3", sampling=replace(SMALL, width=64, height=32, images_per_prompt=1))
    assert images.shape == (2, 32, 64, 3) and not images.requires_grad


def course_of(policy, sampling, iteration: int = 0, reward=BRIGHT, **options) -> Course:
    return Course(policy, prompts_for("sd3"), small_vae("sd3"), reward, sampling, iteration, **options)


def test_every_sample_belongs_to_one_update_and_is_looked_at_in_every_part():
    course = course_of(trained_policy("sd3"), replace(SMALL, images_per_prompt=3, batch_size=4))
    first, second = slice(0, 4), slice(4, 6)
    assert course.looks(1) == [[Look(first), Look(second)]]
    assert course.looks(5) == [[Look(first)], [Look(second, update=1)]], "no update is empty"
    both = [Look(first), Look(first, part=1), Look(second), Look(second, part=1)]
    assert course.looks(1, parts=2) == [both], "all parts of some samples before the next samples"
    assert course.looks(2, parts=2) == [[Look(first), Look(first, 0, 1)], [Look(second, 1, 0), Look(second, 1, 1)]]
    assert [look.size for look in course.looks(1)[0]] == [4, 2]


def test_these_draws_stay_as_they_are():
    """A run that is taken up again goes on with the numbers that it would have drawn."""
    course = course_of(trained_policy("sd3"), replace(SMALL, seed=5), iteration=2)
    assert course.draw(Look(slice(0, 2), update=1, part=3)).initial_seed() == 5805477445997086487
    noise = course.fresh_noise(Look(slice(1, 3), update=1, part=3))
    assert noise.shape == (2, 16, 8, 8) and noise[:, 0, 0, 0].tolist() == pytest.approx([0.12632190, -0.38482454])


def test_the_numbers_of_a_step_are_those_of_its_rewards():
    policy = trained_policy("sd3")
    for fault, failed in (("none", 0), ("one failed", 1)):
        new, images = stepped(policy, "sd3", reward=Odd(fault))
        metrics, rewards = new.metrics, images.double().mean((1, 2, 3))[failed:]
        assert metrics["failed"] == failed and not [key for key in metrics if key.startswith("reward/")]
        assert metrics["reward_mean"] == pytest.approx(float(rewards.mean()), rel=1e-5)
        spread = float((rewards - rewards.mean()).square().mean().sqrt())
        assert metrics["reward_std"] == pytest.approx(spread, rel=1e-3)
        assert metrics["loss"] == pytest.approx(-metrics["reward_mean"], rel=1e-5)
    metrics = stepped(policy, "sd3", reward=Odd("all failed"))[0].metrics
    assert metrics["reward_std"] == 0 and math.isnan(metrics["reward_mean"])


def test_a_changed_weight_of_a_reward_holds_through_its_gradient_too():
    policy, reward = trained_policy("sd3"), WeightedSum(((Odd("none"), 1.0),))
    (name,) = reward.steered_weights()
    plain, new = (
        stepped(start, "sd3", reward=reward, optimizer=through_reward.RAW)[0]
        for start in (policy, turned(policy, {f"weight of {name}": 3.0}, ""))
    )
    assert (plain.metrics[f"weight/{name}"], new.metrics[f"weight/{name}"]) == (1.0, 3.0)
    assert new.metrics["reward_mean"] == pytest.approx(3 * plain.metrics["reward_mean"], rel=1e-5)
    found = through_reward.gradient(new)
    for key, value in through_reward.gradient(plain).items():
        torch.testing.assert_close(found[key], 3 * value, rtol=1e-3, atol=1e-9)


def test_what_is_kept_for_the_report_holds_no_activations():
    policy = trained_policy("sd3")
    course = course_of(policy, PAIRS)
    with open_policy(policy, also_load=[course.vae.patcher]) as net, torch.enable_grad():
        walk = Walk(course, net, net.to_device(policy.bank, train=True), Look(slice(0, 2)))
        walk.go_to(4)
        assert walk.rewards(walk.x).requires_grad
    kept = [*course._images.values(), *course._rewards[0].values()]
    assert len(kept) == 2 and not any(tensor.requires_grad for tensor in kept)


def test_progress_counts_the_policys_steps_and_shows_the_estimate():
    seen = []

    def progress(done, total, x0):
        seen.append((done, total, tuple(x0.shape), x0.requires_grad))

    policy = replace(trained_policy("sd3"), step=1)  # the first step of all looks again where a layer has no gradient
    stepped(policy, "sd3", DRaFT(kl_weight=1.0), sampling=PAIRS, progress=progress)
    assert seen == [(done, 16, (1, 16, 8, 8), False) for done in range(2, 17, 2)]


def test_many_images_of_a_step_lie_on_the_disk(monkeypatch, tmp_path):
    """As a rollout's: in RAM is one micro-batch of them."""
    monkeypatch.setattr("folder_paths.temp_directory", str(tmp_path))
    policy = trained_policy("sd15")
    _, whole = stepped(policy, "sd15", sampling=replace(SMALL, batch_size=2))
    assert not list(tmp_path.rglob("values"))
    monkeypatch.setattr(reward_walk, "LARGE", whole.nbytes - 1)
    _, parts = stepped(policy, "sd15", sampling=replace(SMALL, batch_size=2))
    assert torch.equal(parts, whole) and [file.stat().st_size for file in tmp_path.rglob("values")] == [whole.nbytes]
