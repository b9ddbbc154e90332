"""SRPO: the relative reward, and the image found again."""

from __future__ import annotations

import torch
from posttrain.trainers.losses.srpo import direct_align, relative_reward, srpo_loss
from posttrain.trainers.noise.paths import FLOW, expand

F64 = torch.float64


def test_srpo_golden(golden, close):
    file = golden("06c")
    image = file["in.image_features"].clone().requires_grad_()
    reward = relative_reward(image, file["in.text_features"], file["in.text_features_control"], file["in.k"])
    close(reward, file["out.srp_reward"])
    losses = torch.stack([srpo_loss(r[None]).loss for r in reward]) / file.const("gradient_accumulation_steps")
    close(losses, file["out.loss_per_sample"])
    losses.sum().backward()
    close(image.grad, file["grad.image_features"])


def test_direct_align_recovers_x0_from_a_perfect_network_in_both_branches():
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 3, 4, 4, dtype=F64, generator=g) for _ in range(2))
    for start, end in ((0.9, 0.8), (0.3, 0.4)):
        sigma, sigma_next = (torch.full((2,), s, dtype=F64) for s in (start, end))
        x = FLOW.add_noise(x0, noise, sigma)
        for error in (0.0, 0.1):
            velocity = FLOW.target(x0, noise, sigma) + error
            x_next = x + expand(sigma_next - sigma, x) * velocity
            out = direct_align(x_next, noise, *FLOW.coefficients(sigma_next))
            torch.testing.assert_close(out, x0 + error * expand((sigma_next - sigma) / (1 - sigma_next), x))
