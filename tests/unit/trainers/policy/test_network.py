"""Gradients through ComfyUI's real modules against finite differences, in the three ways of keeping activations."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.policy import open_policy
from small_models import ARCHITECTURES, SIZE, prompts_for, trained_policy


def problem(kind: str):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, *SIZE[kind], generator=generator)
    weight = torch.randn(2, *SIZE[kind], generator=generator)
    sigma = torch.tensor([0.8, 0.4])
    return x, sigma, weight


def gradients(policy, kind: str, guidance: float, recompute: bool = False, blocks: bool = False):
    x, sigma, weight = problem(kind)
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        net.recomputing_blocks(blocks)

        def loss_of():
            out = net.denoise(x, sigma, prompts_for(kind), [0, 1], guidance, bank, recompute=recompute)
            return (out * weight).sum(), {}

        net.gradients(loss_of, list(bank.values()))
        return {k: v.grad.double() for k, v in bank.items() if v.grad is not None}


def finite_difference(policy, kind: str, guidance: float, direction, step: float = 2e-3) -> float:
    x, sigma, weight = problem(kind)
    values = []
    with open_policy(policy) as net:
        for sign in (1, -1):
            bank = net.to_device({k: v + sign * step * direction[k] for k, v in policy.bank.items()})
            out = net.denoise(x, sigma, prompts_for(kind), [0, 1], guidance, bank)
            values.append((out.double() * weight).sum())
    return float(values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("way", ["plain", "recompute", "blocks"])
def test_gradient_equals_finite_differences(kind, way):
    guidance = 2.0
    policy = trained_policy(kind, torch.float64)
    grads = gradients(policy, kind, guidance, recompute=way == "recompute", blocks=way == "blocks")
    assert set(grads) == set(policy.bank), "every layer of the bank must receive a gradient"
    generator = torch.Generator().manual_seed(11)
    norm = sum(float(g.square().sum()) for g in grads.values()) ** 0.5
    # half along the gradient, half at random: a wrong sign and a wrong size both show
    direction = {
        k: (grads[k] / norm + 0.01 * torch.randn(v.shape, generator=generator)).float() for k, v in policy.bank.items()
    }
    analytic = sum(float((grads[k] * direction[k]).sum()) for k in grads)
    assert analytic == pytest.approx(finite_difference(policy, kind, guidance, direction), rel=3e-3)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_recomputation_gives_the_same_gradient(kind):
    policy = trained_policy(kind, torch.float64)
    plain = gradients(policy, kind, 1.0)
    for options in ({"recompute": True}, {"blocks": True}):
        again = gradients(policy, kind, 1.0, **options)
        for key, value in plain.items():
            torch.testing.assert_close(again[key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_small_gradients_survive_a_network_in_half_precision(kind, recompute):
    """A reward's gradient on a latent can be 1e-9, which float16 rounds to nothing."""
    found = []
    for dtype in (torch.float32, torch.float16):
        policy = trained_policy(kind, dtype)
        x, sigma, weight = problem(kind)
        with open_policy(policy) as net:
            bank = net.to_device(policy.bank, train=True)
            net.gradients(
                lambda: (
                    (net.denoise(x, sigma, prompts_for(kind), [0, 1], 1.0, bank, recompute=recompute) * weight * 1e-9).sum(),
                    {},
                ),
                list(bank.values()),
            )
            found.append(torch.cat([v.grad.flatten() for v in bank.values()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99
    assert float(found[1].norm()) == pytest.approx(float(found[0].norm()), rel=0.05)
