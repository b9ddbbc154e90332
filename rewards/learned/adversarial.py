"""A reward that the policy cannot fake for long: does this image still look like one of the base model?

A small convolutional head is trained, between the policy's updates, to tell the base model's images from the policy's;
its log-odds for "base" are the reward. Added to another reward, it is a penalty on what the policy learned to fake, as
in a GAN's discriminator. No pretrained weights; it sees the image at 64 pixels and, apart, its finest detail at full
size, where adversarial texture hides. Range: unbounded, about -5..5; differentiable.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.reward import Prompt, RewardInfo
from ..base.usable import usable_images
from ..base.words import brief
from .holder import in_batches
from .preprocess import resized

SIDE, WIDTH = 64, 16
MOMENTS = 12
AT_ONCE = 16  # images
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Adversary:
    """A value: train() returns a new one. weights: of the head. accuracy: share of held-out images told apart in the last
    training, 0.5 = nothing to tell. images: how many it has seen in all."""

    weights: Weights = field(default_factory=lambda: start_weights(0))
    accuracy: float = 0.5
    images: int = 0
    __repr__ = brief

    info = RewardInfo("looks like the base model", None, None, False, True,
                      "Log-odds that the image is the base model's, by a head trained along with the policy.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        weights = {k: v.to(images.device) for k, v in self.weights.items()}
        return in_batches(images, prompts, AT_ONCE, lambda some, _: head(weights, some))


def start_weights(seed: int) -> dict[str, Tensor]:
    """Fresh weights of the head."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> Tensor:
        fan_in = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
        return torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5

    sizes = [(WIDTH, 3), (WIDTH, WIDTH), (WIDTH, WIDTH)]
    weights = {f"conv{i}.weight": weight(*s, 4, 4) for i, s in enumerate(sizes)}
    weights |= {f"conv{i}.bias": torch.zeros(WIDTH) for i in range(len(sizes))}
    return weights | {"out.weight": weight(1, WIDTH + MOMENTS) * 0.1, "out.bias": torch.zeros(1)}


def head(weights: Weights, images: Tensor) -> Tensor:
    """images [B,H,W,3] in [0, 1] -> log-odds of "base" [B]."""
    pixels = images.float().movedim(-1, 1)
    x = resized(pixels, (SIDE, SIDE), "bilinear") * 2 - 1
    for i in range(3):
        x = F.leaky_relu(F.conv2d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], stride=2, padding=1), 0.2)
    features = torch.cat([x.mean((2, 3)), detail(pixels)], 1)
    return F.linear(features, weights["out.weight"], weights["out.bias"])[:, 0]


def detail(pixels: Tensor) -> Tensor:
    """Strength of the finest detail [B,12]: log mean square of what four small high-pass filters (along, across, aslant and
    crosswise second differences) leave of each colour, at the image's own size."""
    x = F.pad(pixels * 255, (1, 1, 1, 1), mode="replicate")
    across, inner = second_difference(x, 3), x[:, :, 1:-1, 1:-1]
    aslant = 2 * inner - x[:, :, :-2, :-2] - x[:, :, 2:, 2:]
    filtered = (across[:, :, 1:-1], second_difference(x, 2)[..., 1:-1], aslant, second_difference(across, 2))
    strength = torch.stack([(f / 4).square().mean((2, 3)) for f in filtered], 2)
    return (strength + 0.01).log().view(len(x), MOMENTS) / 4


def second_difference(x: Tensor, dim: int) -> Tensor:
    """2 x[i] - x[i-1] - x[i+1] along dim, which becomes shorter by two."""
    count = x.shape[dim] - 2
    return 2 * x.narrow(dim, 1, count) - x.narrow(dim, 0, count) - x.narrow(dim, 2, count)


def train(adversary: Adversary, base: Tensor, policy: Tensor, steps: int = 100, learning_rate: float = 2e-3,
          seed: int = 0) -> Adversary:
    """A new adversary that has seen `steps` small batches of both kinds of images [N,H,W,3].

    Every fifth image is held out to measure the accuracy. Bit-identical for the same input. Raises ValueError for fewer
    than five images of a kind.
    """
    base, policy = (usable_images(i)[0] for i in (base, policy))
    if min(len(base), len(policy)) < 5:
        raise ValueError(f"adversarial reward: it needs at least 5 images of each kind, got {len(base)} of the base model "
                         f"and {len(policy)} of the policy.")
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        kinds = [i.detach().clone() for i in (base, policy)]
        held, seen = [k[4::5] for k in kinds], [k[torch.arange(len(k)) % 5 != 4] for k in kinds]
        weights = {k: v.detach().clone().requires_grad_() for k, v in adversary.weights.items()}
        optimizer = torch.optim.AdamW(list(weights.values()), lr=learning_rate, weight_decay=1e-3)
        for _ in range(steps):
            batch = [k[torch.randint(len(k), (min(len(k), 16),), generator=generator)] for k in seen]
            loss = F.softplus(-head(weights, batch[0])).mean() + F.softplus(head(weights, batch[1])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trained = {k: v.detach() for k, v in weights.items()}
        with torch.no_grad():
            right = [(head(trained, held[0]) > 0).float().mean(), (head(trained, held[1]) < 0).float().mean()]
    return Adversary(trained, float(sum(right) / 2), adversary.images + len(base) + len(policy))
