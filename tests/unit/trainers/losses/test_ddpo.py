from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.ddpo import ppo_clip_loss
from posttrain.trainers.noise.paths import EPS, expand
from posttrain.trainers.noise.transitions import ddim, log_prob

F64 = torch.float64


def ddim_log_prob(file, eps, x_next):
    """The reference's log-prob of a DDIM step; its table of 1000 steps, previous step clamped to 0."""
    bars = file["in.alphas_cumprod"]
    stride = len(bars) // int(file.const("num_steps"))
    bar, bar_next = bars[file["in.t"]], bars[(file["in.t"] - stride).clamp(0)]
    sigma, sigma_next = ((1 - bar) / bar).sqrt(), ((1 - bar_next) / bar_next).sqrt()
    x = file["in.sample"] / expand(bar.sqrt(), eps)
    g = ddim(file.const("eta"))(EPS, x, EPS.x0(x, eps, sigma), sigma, sigma_next)
    return log_prob(x_next / expand(bar_next.sqrt(), eps), g) - 0.5 * bar_next.log()


@pytest.mark.parametrize("case", ["a", "b"])
def test_golden(golden, close, float32_constant, case):
    file = golden("02b").view(case + ".")
    clip, most = file.const("clip_range"), file.const("adv_clip_max")
    if case == "a":
        leaves = {"model_output": file["in.model_output"].clone().requires_grad_()}
        eps = leaves["model_output"]
    else:
        leaves = {n: file[f"in.{n}"].clone().requires_grad_() for n in ("cond_output", "uncond_output")}
        eps = leaves["uncond_output"] + file.const("guidance_scale") * (
            leaves["cond_output"] - leaves["uncond_output"])
    lp = ddim_log_prob(file, eps, file["in.next_sample"]) + float32_constant
    close(lp, file["out.log_prob"], 1e-10)
    out = ppo_clip_loss(lp, file["in.old_log_prob"], file["in.advantages"].clamp(-most, most), clip)
    close(out.ratio - 1, file["out.ratio"] - 1, 1e-6)
    close(out.loss, file["out.loss"])
    close(out.approx_kl, file["out.approx_kl"], 1e-6)
    assert out.clip_fraction.item() == pytest.approx(file["out.clipfrac"].item())
    out.loss.backward()
    for name, leaf in leaves.items():
        close(leaf.grad, file[f"grad.{name}"], 1e-6)


def test_first_ratio_is_one_and_its_gradient_is_reinforce():
    lp = torch.tensor([-0.7, 0.2, 1.3], dtype=F64, requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    out = ppo_clip_loss(lp, lp, advantages)
    assert torch.equal(out.ratio, torch.ones(3, dtype=F64)) and out.clip_fraction == 0 and out.approx_kl == 0
    (gradient,) = torch.autograd.grad(out.loss, lp)
    torch.testing.assert_close(gradient, -advantages / 3)


@pytest.mark.parametrize("advantage, log_ratio, moves", [
    (1.0, 0.3, False), (1.0, -0.3, True), (-1.0, -0.3, False), (-1.0, 0.3, True),
])
def test_only_steps_that_go_further_out_are_stopped(advantage, log_ratio, moves):
    lp = torch.tensor([log_ratio], dtype=F64, requires_grad=True)
    ppo_clip_loss(lp, torch.zeros(1, dtype=F64), torch.tensor([advantage], dtype=F64), 0.1).loss.backward()
    assert bool(lp.grad != 0) == moves


def test_micro_batches_weighted_by_size_are_the_batch():
    g = torch.Generator().manual_seed(0)
    lp, old, a = (torch.randn(7, dtype=F64, generator=g) for _ in range(3))
    whole = ppo_clip_loss(lp, old, a, 0.2).loss
    split = zip(*(t.split([2, 5]) for t in (lp, old, a)))
    parts = sum(len(p) / 7 * ppo_clip_loss(p, o, v, 0.2).loss for p, o, v in split)
    torch.testing.assert_close(whole, parts)
