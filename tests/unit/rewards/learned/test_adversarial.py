from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.learned.adversarial import Adversary, head, start_weights, train

from ..networks import picture


def pictures(count: int, seed: int = 0, size: int = 48) -> torch.Tensor:
    return torch.cat([picture(size, size, seed + i) for i in range(count)])


def grid(images: torch.Tensor, strength: float = 0.02) -> torch.Tensor:
    """A faint checkerboard, as over-trained policies leave it."""
    y, x = torch.meshgrid(torch.arange(images.shape[1]), torch.arange(images.shape[2]), indexing="ij")
    return (images + strength * ((x + y) % 2 * 2 - 1)[None, :, :, None]).clamp(0, 1)


def test_it_learns_a_faint_texture_and_a_colour_shift_on_unseen_images():
    base, new = pictures(40), pictures(10, 500)
    prompts = [Prompt("")] * 20
    for fake in (grid, lambda i: (i * torch.tensor([1.15, 1.0, 0.9])).clamp(0, 1)):
        adversary = train(Adversary(), base, fake(pictures(40, 100)), steps=80)
        values = score(adversary, torch.cat([new, fake(new)]), prompts, [0] * 20).values
        # every picture against its own faked copy
        assert adversary.accuracy >= 0.8 and (values[:10] > values[10:]).float().mean() >= 0.9


def test_nothing_to_learn_gives_chance():
    adversary = train(Adversary(), pictures(40), pictures(40, 300), steps=40)
    assert 0.2 <= adversary.accuracy <= 0.8


def test_training_returns_a_new_value_and_repeats_bit_by_bit():
    start = Adversary()
    before = {k: v.clone() for k, v in start.weights.items()}
    with torch.inference_mode():  # as inside ComfyUI
        base, policy = pictures(10), grid(pictures(10, 50))
        one, two = (train(start, base, policy, steps=5, seed=3) for _ in range(2))
    assert all(torch.equal(start.weights[k], v) for k, v in before.items()) and one.images == 20
    assert all(torch.equal(one.weights[k], two.weights[k]) for k in before)
    assert any(not torch.equal(one.weights[k], before[k]) for k in before)


def test_gradient_takes_the_texture_away():
    adversary = train(Adversary(), pictures(40), grid(pictures(40, 100)), steps=80)
    faked = grid(pictures(1, 900), 0.05)
    x = faked.clone().requires_grad_()
    adversary(x, [Prompt("")]).sum().backward()
    pattern = grid(torch.full_like(faked, 0.5), 0.05) - 0.5
    assert (x.grad * pattern).sum() < 0  # less checkerboard = more like the base model


def test_too_few_images_and_any_size():
    with pytest.raises(ValueError, match="at least 5 images of each kind, got 10 of the base model and 3"):
        train(Adversary(), pictures(10), pictures(3))
    assert torch.isfinite(head(start_weights(0), torch.rand(2, 1, 1, 3))).all()
    assert Adversary().info.differentiable
