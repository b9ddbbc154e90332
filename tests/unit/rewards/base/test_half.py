"""The scale of gradients in float16: a power of two, exact, and chosen without anybody reading a number."""

from __future__ import annotations

import math

import pytest
import torch
from posttrain.rewards.base.half import power_of_two, scaled
from torch.utils._python_dispatch import TorchDispatchMode


class Reads(TorchDispatchMode):
    """Counts the numbers that are read out of tensors: each stops a GPU's queue."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(func) or "aten.item" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_comes_near_1_by_a_power_of_two(dtype):
    for size in (1.5e-29, 1e-9, 2.0**-20, 3e-5, 1.0, 5e4):
        gradient = torch.tensor([0.0, -size, size / 3]).to(dtype)
        if not gradient.any():
            continue
        scale = float(power_of_two([gradient, torch.zeros(2, dtype=dtype), torch.zeros(0)]))
        assert math.log2(scale) == round(math.log2(scale))
        assert 0.5 <= float(gradient.abs().max()) * scale < 1


@pytest.mark.parametrize("broken", [0.0, math.inf, -math.inf, math.nan, 1e35, 1e-35])
def test_what_has_no_such_power_stays(broken):
    assert float(power_of_two([torch.tensor([broken])])) == 1 and float(power_of_two([])) == 1


def test_gradients_of_every_input_survive_and_nobody_reads_a_number():
    """An input that is not used has none; one node stands for all inputs."""
    inputs = [torch.full((3,), float(k + 1), requires_grad=True) for k in range(4)]

    def network(x, a, b, unused):
        return (x.half() * a.half() * b.half()).float()

    with Reads() as reads:
        out = scaled(network, *inputs)
        found = torch.autograd.grad(out, inputs, torch.full((3,), 1e-9), allow_unused=True)
    assert reads.count == 0 and found[3] is None
    for gradient, expected in zip(found, (6e-9, 3e-9, 2e-9)):
        torch.testing.assert_close(gradient, torch.full((3,), expected), rtol=1e-3, atol=0)
    plain = network(*inputs)
    lost = torch.autograd.grad(plain, inputs[:3], torch.full((3,), 1e-9))
    assert not any(bool(gradient.any()) for gradient in lost), "without the scale they vanish"
