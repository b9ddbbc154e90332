"""RTDMD's losses against the official code's numbers, and what they are by themselves."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.losses.flow_grpo import flow_grpo_loss
from posttrain.trainers.losses.refl import hinge_reward_loss
from posttrain.trainers.losses.rtdmd import LARGEST_WEIGHT, brake_loss, fake_score_loss, fake_target, renoised
from posttrain.trainers.noise.paths import FLOW
from posttrain.trainers.noise.transitions import deterministic, flow_cps, log_prob, sample
from posttrain.trainers.rtdmd import RTDMD

F64 = torch.float64


@pytest.mark.parametrize("step", [0, 1])
def test_golden_random_steps(golden, close, step):
    """PPO on coefficient-preserving steps, the clip of 1e-5."""
    file = golden("14c").view(f"step{step}.")
    sigma, after = (file["in.sigmas"][k].expand(6) for k in (step, step + 1))
    x, v = file["in.sample"], file["in.policy_v"].clone().requires_grad_()
    cps = flow_cps(file.const("noise_level"))
    then, now = (cps(FLOW, x, FLOW.x0(x, each, sigma), sigma, after) for each in (file["in.rollout_v"], v))
    close(then.mean, file["out.mean"])
    close(then.std, file["out.std"])
    reached = sample(then, file["in.noise"])
    close(reached, file["out.next_sample"])
    old, new = log_prob(reached, then, "cps"), log_prob(reached, now, "cps")
    close(old, file["out.old_log_prob"])
    close(new, file["out.log_prob"])
    clip = RTDMD().clip_range
    assert file.const("clip_low") == file.const("clip_high") == clip and file.const("beta") == 0
    limit = file.const("adv_clip_max")
    out = flow_grpo_loss(new, old, file["in.advantages"].clamp(-limit, limit), clip)
    close(out.ratio, file["out.ratio"])
    close(out.loss, file["out.loss"])
    out.loss.backward()
    close(v.grad, file["grad.policy_v"])


def test_golden_the_last_step_has_no_noise(golden, close):
    """Its state is the picture; the official PPO there, which its trainer does not use either, is left out."""
    file = golden("14c").view("step3.")
    sigma, after = (file["in.sigmas"][k].expand(6) for k in (3, 4))
    x = file["in.sample"]
    last = flow_cps(file.const("noise_level"))(FLOW, x, FLOW.x0(x, file["in.rollout_v"], sigma), sigma, after)
    close(last.mean, file["out.mean"])
    close(last.std, file["out.std"])
    close(sample(last, file["in.noise"]), file["out.next_sample"])
    with pytest.raises(ValueError, match="std is 0"):
        log_prob(last.mean, last, "cps")


def test_golden_brake(golden, close):
    file = golden("14c").view("dmd.")
    v = file["in.policy_v"].clone().requires_grad_()
    x0 = FLOW.x0(file["in.sample"], v, file["in.sigma"].expand(len(v)))
    close(x0, file["out.x0"])
    loss = brake_loss(x0, file["in.fake_x0"], file["in.real_x0"])
    close(loss, file["out.loss"])
    assert file.const("dmd_weight") == RTDMD().brake
    close(RTDMD().brake * loss, file["out.weighted_loss"])
    loss.backward()
    close(v.grad, file["grad.policy_v"])


def test_golden_reward_at_the_last_step(golden, close):
    file = golden("14c").view("bp.")
    assert file.const("bp_margin") == RTDMD().margin and file.const("bp_scale") == RTDMD().scale
    rewards = file["in.rewards"].clone().requires_grad_()
    loss = hinge_reward_loss(rewards, RTDMD().margin, RTDMD().scale).loss
    close(loss, file["out.loss"])
    loss.backward()
    close(rewards.grad, file["grad.rewards"])


@pytest.mark.parametrize("prefix", ["plain", "scale_out"])
def test_golden_fake_score(golden, close, prefix):
    file = golden("14d").view(f"{prefix}.")
    v = file["in.fake_v"].clone().requires_grad_()
    data = (file["in.state"], file["in.noise"], file["in.sigma_state"], file["in.sigma_renoised"])
    close(renoised(*data), file["out.renoised"])
    target, b = fake_target(*data)
    shape = (-1, 1, 1, 1)
    if prefix == "plain":  # not scaled: the same where b^2 is above a tenth
        close(torch.ones(4, dtype=F64), file["out.scale"])
        close(torch.ones(4, dtype=F64), file["out.weight"])
        close(target / b.view(shape), file["out.target"])
        loss = squared_error(v, target / b.view(shape)).mean()
    else:
        close(b, file["out.scale"])
        close(target, file["out.target"])
        assert file.const("weight_clamp_max") == LARGEST_WEIGHT
        close((1 / b.square()).clamp_max(LARGEST_WEIGHT), file["out.weight"])
        loss = fake_score_loss(v, *data)
    close(loss, file["out.loss"])
    loss.backward()
    close(v.grad, file["grad.fake_v"])


def test_golden_a_step_back_to_the_states_level(golden, close):
    file = golden("14d")
    x, sigma, after = file["out.renoised"], file["in.sigma_renoised"], file["in.sigma_state"]
    x0 = FLOW.x0(x, file["in.fake_v"], sigma)
    close(deterministic()(FLOW, x, x0, sigma, after).mean, file["ode.out.transition_to_sigma_state"])
    step = flow_cps(file.const("cps_eta"))(FLOW, x, x0, sigma, after)
    close(sample(step, file["in.transition_noise"]), file["cps.out.transition_to_sigma_state"])


def batch(rows: int = 3):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 2, 3, 3, dtype=F64, generator=random) for _ in range(3)]


def test_for_finished_pictures_the_target_is_flow_matching_and_weighs_little_near_the_picture():
    v, picture, noise = batch()
    level, to = torch.zeros(3, dtype=F64), torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    close = torch.testing.assert_close
    close(renoised(picture, noise, level, to), FLOW.add_noise(picture, noise, to))
    weight = (10 * to.square()).clamp_max(1)
    close(fake_score_loss(v, picture, noise, level, to), (weight * squared_error(v, noise - picture)).mean())


def test_the_brakes_gradient_is_the_answers_difference_over_the_teachers_distance():
    x0, fake, real = batch()
    x0.requires_grad_()
    brake_loss(x0, fake, real).backward()
    size = (x0.detach() - real).abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(x0.grad, (fake - real) / size / x0.numel())
    still = x0.detach().clone().requires_grad_()
    brake_loss(still, real, real).backward()
    assert not still.grad.any(), "where the two agree nothing is held back"
    one = torch.cat([real[:1], x0.detach()[1:]]).requires_grad_()
    brake_loss(one, fake, real).backward()
    assert not one.grad[0].any() and one.grad[1].any(), "a picture that is the teacher's answer itself"


def test_gradients_by_finite_differences():
    x0, fake, real = batch()
    wanted = x0 - (fake - real) / (x0 - real).abs().mean((1, 2, 3), keepdim=True)
    held = x0.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (x - wanted).square().mean() / 2, held)
    torch.testing.assert_close(
        torch.autograd.grad(brake_loss(held, fake, real), held)[0],
        torch.autograd.grad((held - wanted).square().mean() / 2, held)[0],
    )
    to, level = torch.tensor([0.3, 0.6, 0.9], dtype=F64), torch.tensor([0.0, 0.2, 0.5], dtype=F64)
    assert torch.autograd.gradcheck(lambda v: fake_score_loss(v, fake, real, level, to), held)
