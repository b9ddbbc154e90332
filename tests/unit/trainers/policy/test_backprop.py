"""Gradients through the whole sampler, decoder and reward, against finite differences and against loops by hand."""
from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from posttrain.rewards.base.reward import RewardInfo
from posttrain.trainers import alignprop, drtune, refl
from posttrain.trainers.alignprop import AlignProp
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.drtune import DRTune
from posttrain.trainers.engine.reward_walk import Course, Look, Walk
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.network import Network
from posttrain.trainers.refl import ReFL
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.srpo import SRPO
from small_models import prompts_for, small_vae, trained_policy

STEPS = 3
SMALL = Sampling(steps=STEPS, width=64, height=64, prompts_per_iteration=2, images_per_prompt=1, batch_size=2, guidance=2.0)
RAW = Optimizer(max_grad_norm=0.0, weight_decay=0.0)


@dataclass(frozen=True)
class Smooth:
    """A smooth reward of no meaning: every pixel counts differently."""

    scale: float = 1.0
    info = RewardInfo("smooth", None, None, False, True, "")

    def __call__(self, images, prompts):
        weight = torch.randn(images.shape[1:], generator=generator(3))
        return self.scale * ((3 * images.double()).sin() * weight).flatten(1).sum(1)


@dataclass(frozen=True)
class Wording:
    """Reads the prompt: bright images for "light", dark ones for "dark"."""

    info = RewardInfo("wording", -1.0, 1.0, True, True, "")

    def __call__(self, images, prompts):
        sign = torch.tensor([1.0 if "light" in p.text else -1.0 for p in prompts])
        return images.mean((1, 2, 3)) * sign


def stepped(policy, kind: str, settings, sampling=SMALL, reward=Smooth(), optimizer=RAW, **options):
    return backprop_step(policy, prompts_for(kind), small_vae(kind), reward, sampling, Trainer(settings, optimizer), **options)


def gradient(policy) -> dict[str, torch.Tensor]:
    """What the only update so far was made of: AdamW's first moment is a tenth of it."""
    return {k.removesuffix(".exp_avg"): v.double() * 10 for k, v in policy.optimizer.items() if k.endswith(".exp_avg")}


def by_hand(policy, kind: str, kept: int, sampling=SMALL) -> dict[str, torch.Tensor]:
    """The gradient of DRaFT's loss in plain autograd, by Euler steps, the state cut off before the last ``kept``."""
    vae, prompts = small_vae(kind), prompts_for(kind)
    course = Course(policy, prompts, vae, Smooth(), sampling, 0)
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)

        def loss_of():
            sigmas = net.sigmas(sampling.scheduler, sampling.steps)
            x = net.start(course.samples.noise(slice(0, 2)).start(course.shape), float(sigmas[0]))
            for i in range(sampling.steps):
                if i == sampling.steps - kept:
                    x = x.detach()
                x0 = net.denoise(x, sigmas[i].expand(2), prompts, course.samples.index, sampling.guidance, bank)
                x = x + (sigmas[i + 1] - sigmas[i]) * (x - x0) / sigmas[i]
            pixels = vae.first_stage_model.decode(policy.model.model.process_latent_out(x))
            return -Smooth()((pixels.movedim(1, -1) + 1) / 2, ()).mean(), {}

        vae.first_stage_model.requires_grad_(False)
        net.gradients(loss_of, list(bank.values()))
        return {k: v.grad.double() for k, v in bank.items()}


def assert_close(ours: dict, theirs: dict, tolerance: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(v.abs().max()) for v in theirs.values())
    assert largest > 0 and max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < tolerance * largest


def dot(first: dict, second: dict) -> float:
    return sum(float((first[k] * second[k]).sum()) for k in first)


NOISY = replace(SMALL, transition="flow_sde", noise_level=0.7)


@pytest.mark.parametrize("kind, settings, sampling", [
    ("sd15", DRaFT(steps=0), SMALL), ("sd3", DRaFT(steps=0), SMALL), ("flux", DRaFT(steps=0), SMALL),
    ("sd15", DRaFT(steps=0, kl_weight=50.0), SMALL), ("sd3", DRaFT(steps=0, kl_weight=50.0), SMALL),
    ("sd3", DRaFT(steps=0), NOISY)])
def test_draft_through_all_steps_equals_finite_differences(kind, settings, sampling):
    """With guidance, so through both of its branches, through random steps too, and through ComfyUI's own decoder."""
    policy = trained_policy(kind, torch.float64)
    new, images = stepped(policy, kind, settings, sampling)
    assert 0 < images.min() and images.max() < 1, "a cut pixel would have another gradient than finite differences"
    grads = gradient(new)
    norm = dot(grads, grads) ** 0.5
    # half along the gradient, half at random: a wrong sign and a wrong size both show
    direction = {k: (grads[k] / norm + 0.01 * torch.randn(v.shape, generator=generator(11))).float()
                 for k, v in policy.bank.items()}
    losses = []
    for sign in (1, -1):
        bank = {k: v + sign * 2e-3 * direction[k] for k, v in policy.bank.items()}
        losses.append(stepped(replace(policy, bank=bank), kind, settings, sampling)[0].metrics["loss"])
    assert dot(grads, direction) == pytest.approx((losses[0] - losses[1]) / 4e-3, rel=3e-3)


@pytest.mark.parametrize("kind", ["sd15", "sd2_v", "sd3"])
@pytest.mark.parametrize("kept", range(1, STEPS + 1))
def test_draft_k_cuts_the_state_off_before_its_steps(kind, kept):
    """K = T is the whole gradient; for K = 1 what only earlier steps used gives none."""
    policy = trained_policy(kind)
    assert_close(gradient(stepped(policy, kind, DRaFT(steps=kept))[0]), by_hand(policy, kind, kept))


def test_draft_lv_is_the_mean_over_the_last_step_with_several_noises():
    policy, kind = trained_policy("sd3"), "sd3"
    new, _ = stepped(policy, kind, DRaFT(extra_noises=2))
    assert new.metrics["update_evaluations"] == 2 * 2 * (STEPS + 2), "two images, both branches of the guidance"
    course = Course(policy, prompts_for(kind), small_vae(kind), Smooth(), SMALL, 0)
    found = gradient(stepped(policy, kind, DRaFT())[0])
    with open_policy(policy, also_load=[course.vae.patcher]) as net:
        for part in (1, 2):
            bank = net.to_device(policy.bank, train=True)

            def loss_of():
                walk = Walk(course, net, bank, Look(slice(0, 2), part=part))
                with torch.no_grad():
                    walk.go_to(STEPS)
                sigma = walk.sigma(STEPS - 1)
                noised = net.path.add_noise(walk.x, course.fresh_noise(walk.look), sigma)
                return -walk.rewards(walk.denoised(noised, sigma)).mean(), {}

            net.gradients(loss_of, list(bank.values()))
            found = {k: v + bank[k].grad for k, v in found.items()}
    assert_close(gradient(new), {k: v / 3 for k, v in found.items()})


def test_alignprop_draws_its_truncation_and_is_draft_at_that_length():
    policy = trained_policy("sd3")
    sampling = replace(SMALL, steps=6)
    for iteration in range(3):
        new, _ = stepped(policy, "sd3", AlignProp(coefficient=1.0), sampling, iteration=iteration)
        count = int(new.metrics["backpropagated_steps"])
        same, _ = stepped(policy, "sd3", DRaFT(steps=count), sampling, iteration=iteration)
        assert_close(gradient(new), gradient(same))
    for kind, mean in (("gaussian", 8), ("uniform", 25.5)):
        counts = [alignprop._truncated(kind, 50, generator(i)) for i in range(2000)]
        assert min(counts) >= 1 and max(counts) <= 50 and sum(counts) / 2000 == pytest.approx(mean, abs=1.0)


def test_alignprop_pulls_back_from_beyond_its_target():
    policy = trained_policy("sd3")
    reward = stepped(policy, "sd3", DRaFT())[0].metrics["reward_mean"]
    up, down = (gradient(stepped(policy, "sd3", AlignProp(target=reward + d))[0]) for d in (1e4, -1e4))
    assert dot(up, down) == pytest.approx(-dot(up, up), rel=1e-6)


def test_alignprop_stops_early_and_goes_on_when_asked_for_more():
    policy = trained_policy("sd3")
    first, _ = stepped(policy, "sd3", AlignProp(stop_at=-1e6))
    assert first.step == 1 and first.metrics["early_stopped"] == 1
    assert stepped(policy, "sd3", AlignProp(stop_at=1e6))[0].metrics["early_stopped"] == 0
    rested, images = stepped(first, "sd3", AlignProp(stop_at=-1e6), iteration=1)
    assert rested.step == 1 and rested.metrics["early_stopped"] == 1 and rested.iteration == 2
    assert all(torch.equal(first.bank[k], rested.bank[k]) for k in first.bank)
    assert len(images) == 2 and rested.metrics["reward_mean"] != first.metrics["reward_mean"]
    assert rested.metrics["update_evaluations"] == 2 * 2 * STEPS
    assert stepped(rested, "sd3", AlignProp(stop_at=1e6), iteration=2)[0].step == 2


def test_refl_has_no_gradient_from_its_margin_on():
    policy = trained_policy("sd3")
    low, high = (stepped(policy, "sd3", ReFL(margin=margin))[0] for margin in (-1e4, 1e4))
    assert low.metrics["saturated"] == 1 and low.metrics["grad_norm"] == 0
    assert high.metrics["saturated"] == 0 and high.metrics["grad_norm"] > 0


def test_refl_judges_the_clean_estimate_of_a_random_late_step():
    policy = trained_policy("sd3")
    drawn = {refl._middle(ReFL(), 40, generator(i)) for i in range(300)}
    assert drawn == set(range(30, 40)), "the official 30 to 39 of 40 steps"
    new, _ = stepped(policy, "sd3", ReFL(scale=1.0, margin=1e4, earliest=0.0, latest=0.2))
    assert new.metrics["update_evaluations"] == 2 * 2, "the first step: one call with gradient and none without"
    last, _ = stepped(policy, "sd3", ReFL(scale=1.0, margin=1e4, earliest=0.99))
    assert_close(gradient(last), gradient(stepped(policy, "sd3", DRaFT())[0]))


def test_drtune_gives_every_trained_step_the_rewards_gradient_times_its_length(monkeypatch):
    """Closed form for flow: d reward / d prediction_i = -(sigma_i - sigma_i+1) d reward / d x0."""
    outputs, finals = [], []
    ask, judge = Network.denoise, Walk.rewards

    def spied(self, x, sigma, *rest, **options):
        assert not x.requires_grad, "the network's input is cut off"
        x0 = ask(self, x, sigma, *rest, **options)
        if x0.requires_grad:
            x0.retain_grad()
            outputs.append((float(sigma[0]), x0))
        return x0

    def watched(self, latents, **options):
        latents.retain_grad()
        finals.append(latents)
        return judge(self, latents, **options)

    monkeypatch.setattr(Network, "denoise", spied)
    monkeypatch.setattr(Walk, "rewards", watched)
    policy, sampling = trained_policy("sd3"), replace(SMALL, steps=6, guidance=1.0)
    for early_stop, count in ((0, 3), (0, 6), (3, 2)):
        outputs.clear(), finals.clear()
        stepped(policy, "sd3", DRTune(steps=count, early_stop=early_stop), sampling, iteration=1)
        with open_policy(policy) as net:
            sigmas = [float(s) for s in net.sigmas(sampling.scheduler, 6)]
        assert len(outputs) == count and len(finals) == 1
        for sigma, x0 in outputs:
            i = min(range(6), key=lambda k: abs(sigmas[k] - sigma))
            # the estimate is x - sigma v, so its gradient is the prediction's over -sigma
            got = -sigma * x0.grad
            length = sigmas[i] - sigmas[i + 1]
            ratios = (got / finals[0].grad)[finals[0].grad.abs() > 1e-3]
            stopped_here = early_stop and torch.allclose(ratios, torch.tensor(-sigma), rtol=1e-3)
            assert stopped_here or torch.allclose(ratios, torch.tensor(-length), rtol=1e-3)


def test_drtune_spreads_its_steps_evenly():
    for seed in range(50):
        steps = sorted(drtune.spaced(3, 9, generator(seed)))
        assert len(steps) == 3 and steps[1] - steps[0] == steps[2] - steps[1] == 3 and 0 <= steps[0] and steps[2] <= 9
    assert drtune.spaced(5, 2, generator(0)) == {0, 1, 2}


@pytest.mark.parametrize("settings, calls", [(DRaFT(), STEPS), (DRaFT(steps=0), STEPS), (DRaFT(extra_noises=2), STEPS + 2),
                                             (DRTune(early_stop=0), STEPS), (SRPO("light", "dark"), STEPS + 2)])
def test_evaluations_are_counted(settings, calls):
    new, _ = stepped(trained_policy("sd3"), "sd3", settings, reward=Wording())
    assert new.metrics["update_evaluations"] == calls * 2 * 2
    assert {"reward_mean", "reward_std", "failed", "grad_norm", "loss", "updates", "learning_rate"} <= new.metrics.keys()
