from __future__ import annotations

import pytest
import torch
from posttrain.trainers.flow_grpo import carries
from posttrain.trainers.losses.flow_grpo import flow_grpo_loss, gradient_weight, noise_weight
from posttrain.trainers.noise.paths import FLOW
from posttrain.trainers.noise.transitions import Gaussian, dance_sde, deterministic, flow_sde, gaussian_kl, log_prob, sample

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
    losses = torch.stack(
        [flow_grpo_loss(lp[i : i + 1], old[i : i + 1], advantages[i : i + 1], clip).loss for i in range(len(lp))]
    ) / (file.const("gradient_accumulation_steps") * file.const("train_timesteps"))
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


@pytest.mark.parametrize("number", [0, 1, 4, 8])
def test_tempflow_golden(golden, close, float32_constant, number):
    """Branches of one state, their weight by the noise of their step, and the exact KL."""
    file = golden("12a").view(f"step{number}.")
    assert number in file["in.branch_step"].tolist() and len(file["in.noise"]) == file.const("branches")
    sigmas, transition = file["in.sigmas"], flow_sde(file.const("noise_level"))
    sigma, sigma_next = (sigmas[k : k + 1] for k in (number, number + 1))
    trunk, rows = file["in.trunk"], len(file["in.noise"])

    def taken(velocity, by=transition):
        count = len(velocity)
        x = trunk.expand(count, -1, -1, -1)
        return by(FLOW, x, FLOW.x0(x, velocity, sigma.expand(count)), sigma.expand(count), sigma_next.expand(count))

    branching = taken(file["in.trunk_v"].expand(rows, -1, -1, -1))
    close(branching.std[:1], file["out.transition_std"])
    branches = sample(branching, file["in.noise"])
    close(branches, file["out.branches"])
    close(taken(file["in.trunk_v"], deterministic()).mean, file["out.trunk_next"])
    old = log_prob(branches, branching) + float32_constant
    close(old, file["out.log_prob"])
    velocity = file["in.policy_v"].clone().requires_grad_()
    now = taken(velocity)
    lp, kl = log_prob(branches, now) + float32_constant, gaussian_kl(now.mean, taken(file["in.ref_v"]).mean, now.std)
    weight, most = file.const("weight_scale") * now.std, file.const("adv_clip_max")
    advantages = file["in.advantages"].clamp(-most, most)
    out = flow_grpo_loss(lp, old, advantages, file.const("clip_range"), kl, file.const("beta"), weight)
    close(lp, file["out.policy_log_prob"])
    close(out.ratio, file["out.ratio"])
    close(out.policy_loss, file["out.policy_loss"])
    close(out.kl, file["out.kl_loss"])
    close(out.loss, file["out.loss"])
    close(weight, file["unirl.out.weight"], 1e-6)
    close(out.policy_loss, file["unirl.out.loss"], 1e-5)  # without the KL, its weights in float32
    out.loss.backward()
    close(velocity.grad, file["grad.policy_v"], 1e-6)


def test_tempflows_constant_is_one_over_the_mean_of_the_noise(golden, close):
    """2.25, for the schedule that it was written for."""
    file = golden("12a")
    sigmas = file["in.sigmas"]
    assert len(sigmas) == file.const("num_steps") + 1
    close(file["in.timesteps"].double(), 1000 * sigmas[:-1], 1e-6)
    least = file.const("shift") * 1e-3 / (1 + (file.const("shift") - 1) * 1e-3)
    shifted = file.const("shift") * torch.linspace(1, least, 10, dtype=F64)
    close(sigmas[:-1], shifted / (1 + (file.const("shift") - 1) * torch.linspace(1, least, 10, dtype=F64)), 1e-6)
    zero = torch.zeros(10, 1, dtype=F64)
    std = flow_sde(file.const("noise_level"))(FLOW, zero, zero, sigmas[:-1], sigmas[1:]).std
    close(file.const("weight_scale") * std, file["out.weight_of_every_step"])
    assert noise_weight(std[:9], std[:9]).mean().item() == pytest.approx(1)
    close(noise_weight(std, std[:9]), file["out.weight_of_every_step"], 1.5e-3)


def test_golden_flash_grpo(golden, close):
    """One step for each prompt, and UniRL's weight, whose mean is over the steps that may be drawn. Its noise is sigma_1 sigma."""
    file = golden("13")
    sigmas, places, count = file["in.sigmas"], file["in.step_index"], int(file.const("candidate_steps"))
    assert len(sigmas) == file.const("num_steps") + 1 and file["in.timesteps"].tolist() == (1000 * sigmas[:-1]).int().tolist()
    raw = file.const("flow_shift") * torch.linspace(1 - 1e-6, 0.0, 2, dtype=F64)
    assert raw[0] / (1 + (file.const("flow_shift") - 1)) == pytest.approx(sigmas[0].item(), abs=1e-5)
    diffusion = sigmas[1] * sigmas[:-1]
    one = [carries(FLOW, dance_sde(float(s)), sigmas[k : k + 2]) for k, s in enumerate(diffusion[:count])]
    pool = torch.cat([std / carried for std, carried in one])
    close(pool[places], file["out.exact_coefficient"])
    weight = torch.cat([gradient_weight(*one[k], pool) for k in places])
    close(weight, file["unirl.out.weight"].double(), 1e-6)
    velocity = file["in.policy_v"].clone().requires_grad_()
    new, old, rows = [], [], []
    for k in places.unique().tolist():
        own = (places == k).nonzero().flatten()
        x, sigma, after = file["in.sample"][own], sigmas[k].expand(len(own)), sigmas[k + 1].expand(len(own))
        then, now = (
            dance_sde(float(diffusion[k]))(FLOW, x, FLOW.x0(x, v[own], sigma), sigma, after)
            for v in (file["in.rollout_v"], velocity)
        )
        close(then.mean, file["out.mean"][own])
        close(diffusion[k].expand(len(own)), file["out.std_dev_t"][own])
        close(then.std / diffusion[k], file["out.sqrt_dt"][own])
        reached = sample(then, file["in.noise"][own])
        close(reached, file["out.next_sample"][own])
        quiet = deterministic()(FLOW, x, FLOW.x0(x, file["in.rollout_v"][own], sigma), sigma, after)
        close(quiet.mean, file["out.ode_next_sample"][own])
        old.append(log_prob(reached, then))
        new.append(log_prob(reached, now))
        rows.append(own)
    new, old, rows = (torch.cat(each) for each in (new, old, rows))
    close(old, file["out.old_log_prob"][rows], 1e-6)
    close(new, file["out.log_prob"][rows], 1e-6)
    limit, clip = file.const("adv_clip_max"), file.const("clip_range")
    advantage = file["in.advantages"].clamp(-limit, limit)[rows]
    out = flow_grpo_loss(new, old, advantage, clip, weight=weight[rows])
    close(out.ratio, file["out.ratio"][rows], 1e-6)
    each = weight[rows] * torch.maximum(-advantage * out.ratio, -advantage * out.ratio.clamp(1 - clip, 1 + clip))
    close(each, file["unirl.out.per_sample"][rows], 1e-5)
    close(out.loss, file["unirl.out.loss"], 1e-5)
    out.loss.backward()
    close(velocity.grad, file["unirl.grad.policy_v"], 1e-5)


def test_the_kl_is_unirls_as_it_is_now(golden, close):
    """With the step's length and with sigma 1 taken at the next level, as ours; the file's std is in float32."""
    file = golden("18")
    sigmas, places = file["in.sigmas"].double(), file["in.step_index"]
    assert len(sigmas) == file.const("num_steps") + 1
    shift = file.const("shift")
    assert sigmas[-2].item() == pytest.approx(
        shift * (least := shift * 1e-3 / (1 + (shift - 1) * 1e-3)) / (1 + (shift - 1) * least)
    )
    zero = torch.zeros(len(places), 1, dtype=F64)
    std = flow_sde(file.const("eta"))(FLOW, zero, zero, sigmas[places], sigmas[places + 1]).std
    close(std, file["out.sigma_t"].double(), 1e-6)
    mean, reference = file["in.policy_means"].clone().requires_grad_(), file["in.reference_means"]
    kl = gaussian_kl(mean.flatten(0, 1), reference.flatten(0, 1), std.repeat(len(mean)))
    close(kl.mean(), file["out.kl"], 1e-5)
    kl.mean().backward()
    close(mean.grad, file["grad.policy_means"], 1e-5)
