from __future__ import annotations

import math

import pytest
import torch
from posttrain.trainers.losses.ddpo import ppo_clip_loss
from posttrain.trainers.losses.dpok import dpok_loss, value_loss
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.noise.paths import EPS, expand
from posttrain.trainers.noise.transitions import ddim, gaussian_kl, log_prob

F64 = torch.float64


def tables(file):
    t = file["in.timesteps"][file["in.step_index"]]
    bars = file["in.alphas_cumprod"]
    bar, bar_next = bars[t], bars[(t - len(bars) // int(file.const("num_steps"))).clamp(0)]
    return bar, bar_next, ((1 - bar) / bar).sqrt(), ((1 - bar_next) / bar_next).sqrt()


def step(file, eps):
    bar, _, sigma, sigma_next = tables(file)
    x = file["in.sample"] / expand(bar.sqrt(), eps)
    return ddim(file.const("eta"))(EPS, x, EPS.x0(x, eps, sigma), sigma, sigma_next)


def guided(file, prefix=""):
    cond, uncond = (file[f"in.{prefix}{n}_output"].clone().requires_grad_() for n in ("cond", "uncond"))
    return cond, uncond, uncond + file.const("guidance_scale") * (cond - uncond)


@pytest.mark.parametrize("case", ["value", "novalue"])
def test_golden_once_the_max_and_the_step_weights_are_undone(golden, close, case):
    file = golden("06a").view(case + ".")
    cond, uncond, eps = guided(file)
    _, bar_next, _, _ = tables(file)
    lp = log_prob(file["in.next_sample"] / expand(bar_next.sqrt(), eps), step(file, eps))
    lp = lp - 0.5 * bar_next.log()
    close(lp, file["out.log_prob"], 1e-10)
    advantages = file["in.reward"] - (file["in.value"] if case == "value" else 0)
    close(advantages, file["out.advantage"])
    clip, old = file.const("ratio_clip"), file["in.old_log_prob"]
    clamped = old + (lp - old).clamp(math.log(1 - clip), math.log(1 + clip))
    close((clamped - old).exp(), file["out.ratio_clamped"])
    official_kl = squared_error(eps, guided(file, "pretrained_")[2].detach())
    close(official_kl.mean(), file["out.kl_regularizer_mean"])
    # a log-prob clamped beforehand leaves nothing for the max to choose: the official one-sided objective
    weights = file.const("kl_weight"), file.const("reward_weight")
    out = dpok_loss(clamped, old, advantages, clip, official_kl, *weights)
    accumulation = file.const("gradient_accumulation_steps")
    loss = out.loss / accumulation
    close(loss, file["out.loss"])
    loss.backward(retain_graph=True)
    close(cond.grad, file["grad.cond_output"], 1e-6)
    close(uncond.grad, file["grad.uncond_output"], 1e-6)
    # and with the max, steps outside on the wrong side are pulled back
    cond.grad = None
    dpok_loss(lp, old, advantages, clip, official_kl, *weights).loss.backward()
    wrong = ((lp - old).detach() * advantages < 0) & ((lp - old).detach().abs() > clip)
    assert wrong.any()
    ours, theirs = (g.flatten(1).abs().sum(1) for g in (cond.grad / accumulation, file["grad.cond_output"]))
    assert (ours[wrong] > 2 * theirs[wrong]).all()


def test_value_loss_golden(golden, close):
    file = golden("06a")
    close(value_loss(file["in.value"], file["in.reward"]) / file.const("v_step"), file["out.value_loss"])


def test_gaussian_kl_is_the_step_weight_times_the_eps_difference(golden, close):
    """(mean - mean_ref) = c_t (eps - eps_ref): what the official KL drops."""
    file = golden("06a")
    _, _, eps = guided(file)
    ref = guided(file, "pretrained_")[2]
    g, g_ref = step(file, eps), step(file, ref)
    bar, bar_next, _, _ = tables(file)
    std = g.std * bar_next.sqrt()
    c = (1 - bar_next - std**2).sqrt() - (bar_next * (1 - bar) / bar).sqrt()
    close(gaussian_kl(g.mean, g_ref.mean, g.std), c**2 / (2 * std**2) * squared_error(eps, ref), 1e-9)


def test_first_step_gradient_is_the_reward_weight_times_ddpos():
    lp = torch.tensor([-0.3, 0.4], dtype=F64, requires_grad=True)
    a = torch.tensor([1.0, -0.5], dtype=F64)
    (ours,) = torch.autograd.grad(dpok_loss(lp, lp, a, kl_weight=0.0).loss, lp)
    (ddpo,) = torch.autograd.grad(ppo_clip_loss(lp, lp, a).loss, lp)
    torch.testing.assert_close(ours, 100 * ddpo)
