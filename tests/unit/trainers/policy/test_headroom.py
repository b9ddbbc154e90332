"""Gradients that overflow in float16: the update is made again with smaller ones, and the run remembers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from posttrain.trainers.engine.optimizer import Optimizer
from posttrain.trainers.engine.update import update
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.headroom import LEAST, LESS, SCALE, Headroom
from small_models import prompts_for, trained_policy

RAW = Optimizer(learning_rate=1e-3, weight_decay=0.0, max_grad_norm=0.0)


@dataclass(frozen=True)
class Micro:
    size: int
    target: float


class Steep(torch.autograd.Function):
    """Its backward multiplies by ``by``, in the gradient's type."""

    @staticmethod
    def forward(ctx, x, by):
        ctx.by = by
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.by, None


def steeply(by: float):
    """A loss through a network whose last layer's gradient is ``by`` times as large, and is divided by it again outside."""

    def evaluate(net, bank, micro):
        x = torch.randn((1, 16, 8, 8), generator=torch.Generator().manual_seed(4)).to(net.device)
        layer = net.diffusion_model.final_layer.linear
        steep = layer.register_forward_hook(lambda _, __, out: Steep.apply(out, by))
        try:
            x0 = net.denoise(x, torch.full((1,), 0.5), PROMPTS, [0], 1.0, bank)
        finally:
            steep.remove()
        return (x0 * micro.target).square().mean() / by, {}

    return evaluate


PROMPTS = prompts_for("sd3")


def learned(dtype, by: float, policy=None, steps=([Micro(1, 1.0)],)):
    return update(policy or trained_policy("sd3", dtype), list(steps), steeply(by), RAW)


def moved(policy) -> torch.Tensor:
    return torch.cat([value.flatten() for key, value in sorted(policy.optimizer.items()) if key.endswith(".exp_avg")])


def test_an_update_that_overflows_is_made_again_and_is_the_right_one(caplog):
    right, found = learned(torch.float32, 2.0**17), learned(torch.float16, 2.0**17)
    assert found.metrics["updates"] == 1 and not found.metrics["skipped_updates"]
    assert float((moved(found) - moved(right)).norm() / moved(right).norm()) < 0.05
    assert found.memory[SCALE] == LESS and "too large for float16" in caplog.text
    assert found.metrics["update_evaluations"] == 2 and math.isfinite(found.metrics["grad_norm"])


def test_the_run_goes_on_with_it_without_another_try():
    first = learned(torch.float16, 2.0**17)
    again = learned(torch.float16, 2.0**17, first)
    assert again.metrics["update_evaluations"] == 1 and again.memory == first.memory


def test_nothing_is_said_or_kept_where_nothing_overflows(caplog):
    found = learned(torch.float16, 1.0)
    assert SCALE not in found.memory and not caplog.text and found.metrics["update_evaluations"] == 1


def test_what_no_scale_can_mend_is_skipped():
    found = learned(torch.float16, 2.0**40)
    assert found.metrics["skipped_updates"] == 1 and found.memory[SCALE] == LEAST


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_types_have_no_use_for_it(dtype):
    assert not Headroom(dtype).more()


def test_a_loss_that_is_no_number_is_not_the_scales_fault():
    found = learned(torch.float16, 1.0, steps=([Micro(1, math.nan)],))
    assert found.metrics["skipped_updates"] == 1 and SCALE not in found.memory


def test_recomputed_activations_have_the_same_headroom():
    policy = trained_policy("sd3", torch.float16)
    with open_policy(policy) as net:
        net.headroom.factor = LESS
        bank = net.to_device(policy.bank, train=True)
        x = torch.randn((1, 16, 8, 8), generator=torch.Generator().manual_seed(4))
        seen = []

        def watch(_, __, out):
            if out.requires_grad:  # in the recomputation
                out.register_hook(lambda gradient: seen.append(float(gradient.abs().max())))

        hook = net.diffusion_model.final_layer.linear.register_forward_hook(watch)
        with torch.enable_grad():
            net.denoise(x, torch.full((1,), 0.5), PROMPTS, [0], 1.0, bank, recompute=True).sum().backward()
        hook.remove()
    assert seen and max(seen) < 8 * LESS
