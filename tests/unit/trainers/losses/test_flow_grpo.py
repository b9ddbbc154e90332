from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.flow_grpo import flow_grpo_loss
from posttrain.trainers.noise.paths import FLOW
from posttrain.trainers.noise.transitions import Gaussian, dance_sde, flow_sde, gaussian_kl, log_prob

F64 = torch.float64


def step(file, dtype, velocity, transition):
    x, sigmas, i = file["in.sample"].to(dtype), file["in.sigmas"].to(dtype), file["in.step_index"]
    g = transition(FLOW, x, FLOW.x0(x, velocity, sigmas[i]), sigmas[i], sigmas[i + 1])
    return g, sigmas[i] - sigmas[i + 1]


def velocities(file, case, dtype):
    """Leaves, the policy's velocity and the reference's; under guidance the reference detaches the uncond branch."""
    if case != "c":
        leaf = file["in.model_output"].to(dtype).requires_grad_()
        return {"model_output": leaf}, leaf, file["in.model_output_ref"].to(dtype)
    cond, uncond = (file[f"in.{n}"].to(dtype).requires_grad_() for n in ("cond_output", "uncond_output"))
    w = file.const("guidance_scale")
    ref = file["in.cond_output_ref"].to(dtype)
    base = uncond.detach()
    return {"cond_output": cond, "uncond_output": uncond}, base + w * (cond - base), base + w * (ref - base)


@pytest.mark.parametrize("precision", ["f64.", ""])
@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_golden_once_the_kl_forgets_delta_again(golden, close, float32_constant, case, precision):
    dtype, tolerance = (F64, 1e-7) if precision else (torch.float32, 1e-4)
    file = golden("01a").view(f"{case}.").view(precision).view(f"{precision}{case}.")
    leaves, velocity, ref = velocities(file, case, dtype)
    transition = flow_sde(file.const("noise_level"))
    g, delta = step(file, dtype, velocity, transition)
    kl = gaussian_kl(g.mean, step(file, dtype, ref, transition)[0].mean, g.std)
    most, beta = file.const("adv_clip_max"), 0.0 if case == "b" else file.const("beta")
    lp = log_prob(file["in.next_sample"], g) + (float32_constant if precision else 0)
    old, advantages = file["in.old_log_prob"], file["in.advantages"].to(dtype).clamp(-most, most)
    out = flow_grpo_loss(lp, old, advantages, file.const("clip_range"), kl * delta, beta)
    close(lp, file["out.log_prob"], tolerance)
    # float32 ratios: the last step's 1/std^2 magnifies rounding beyond the clip range itself (golden README)
    close(out.ratio - 1, file["out.ratio"] - 1, 1e-6 if precision else 6e-3)
    close(out.loss, file["out.loss"], tolerance)
    assert out.clip_fraction.item() == pytest.approx(file["out.clipfrac"].item())
    close(out.approx_kl, file["out.approx_kl"], 1e-6 if precision else 6e-3)
    close(out.policy_loss, file["out.policy_loss"], tolerance)
    if case != "b":
        close(out.kl, file["out.kl_loss"], tolerance)
        exact = flow_grpo_loss(lp, old, advantages, file.const("clip_range"), kl, beta)
        assert exact.kl > 5 * out.kl, "the exact KL is 1/Delta larger"
    out.loss.backward()
    for name, leaf in leaves.items():
        if name == "uncond_output":  # the reference's first release; ours gives it gradient, see the network's own tests
            assert leaf.grad is None and not file["grad.uncond_output"].any()
        else:
            close(leaf.grad, file[f"grad.{name}"], 1e-6 if precision else 6e-3)


@pytest.mark.parametrize("precision, tolerance", [("f64.", 1e-6), ("", 6e-3)])
def test_dance_grpo_golden(golden, close, float32_constant, precision, tolerance):
    """Same loss, other SDE; the official one runs step by step and divides by accumulation * trained steps."""
    file, dtype = golden("05b").view(precision), F64 if precision else torch.float32
    velocity = file["in.model_output"].to(dtype).requires_grad_()
    g, _ = step(file, dtype, velocity, dance_sde(file.const("eta")))
    lp = log_prob(file["out.next_sample"], g)
    offset = float32_constant if precision else 0.0
    close((lp + offset - file["in.old_log_prob"]).exp() - 1, file["out.ratio"] - 1, tolerance)
    most = file.const("adv_clip_max")
    advantages = file["in.advantages"].to(dtype).clamp(-most, most)
    old, clip = file["in.old_log_prob"], file.const("clip_range")
    losses = torch.stack([
        flow_grpo_loss(lp[i:i + 1], old[i:i + 1], advantages[i:i + 1], clip).loss for i in range(len(lp))
    ]) / (file.const("gradient_accumulation_steps") * file.const("train_timesteps"))
    close(losses, file["out.loss_step"], 1e-7 if precision else 1e-4)
    losses.sum().backward()
    close(velocity.grad, file["grad.model_output"], tolerance)


def test_beta_zero_needs_no_reference_and_beta_without_one_is_an_error():
    lp = torch.zeros(2, dtype=F64)
    assert flow_grpo_loss(lp, lp, lp, beta=0.0).kl == 0
    with pytest.raises(ValueError, match="kl: missing"):
        flow_grpo_loss(lp, lp, lp, beta=0.1)


def test_kl_is_zero_at_the_reference_and_pulls_towards_it():
    mean, ref = torch.ones(1, 3, dtype=F64, requires_grad=True), torch.zeros(1, 3, dtype=F64)
    std, zero = torch.tensor([0.5], dtype=F64), torch.zeros(1, dtype=F64)
    assert gaussian_kl(ref, ref, std) == 0
    lp = log_prob(mean, Gaussian(mean, std))
    flow_grpo_loss(lp, lp, zero, kl=gaussian_kl(mean, ref, std), beta=1.0).loss.backward()
    torch.testing.assert_close(mean.grad, (mean.detach() - ref) / std**2 / 3)
