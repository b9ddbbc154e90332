"""A discriminator: a few small heads on what the user's own frozen network sees in noised latents.

As LADD (arXiv:2403.12015) does: nothing is decoded and no other network is loaded.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..engine.renoise import Noised
from ..losses.add import DiscriminatorLoss, discriminator_loss, r1_penalty
from ..noise.paths import sigma_at
from ..noise.streams import Stream, generator
from ..policy.features import feature_blocks, seen
from ..policy.network import Network
from ..policy.uploads import uploaded
from ..policy.value import Bank
from ..sampling.rollout import Rollout

HIDDEN = 64


class Discriminator:
    """The discriminator before one micro-batch; real and fake are looked at under the same noise."""

    def __init__(self, net: Network, rollout: Rollout, micro: Noised, heads: Bank):
        self.net, self.rollout, self.micro, self.heads = net, rollout, micro, heads
        self.blocks = feature_blocks(net)

    def fake(self, x0: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(logits [B, H] whose gradient reaches ``x0`` and not the heads, what the heads saw)."""
        fixed, features = {key: value.detach() for key, value in self.heads.items()}, {}
        return self._look(x0, lambda name, tokens: logit(fixed, name, tokens), features), features

    def loss(self, fake: dict, r1_weight: float) -> DiscriminatorLoss:
        """The heads' own loss; fake: what they saw in the student's answers."""
        real: dict[str, list[torch.Tensor]] = {}
        with torch.no_grad():
            self._look(uploaded(self.rollout.latents[self.micro.rows], self.net.device), lambda _, tokens: tokens[:, :1, 0], real)
        logits, penalties = [], []
        with torch.enable_grad():  # the penalty is made of a gradient, also where the loss is asked without one
            for name, groups in real.items():
                for tokens in groups:
                    tokens.requires_grad_(True)
                    logits.append(logit(self.heads, name, tokens))
                    penalties.append(r1_penalty(logits[-1], tokens))
        fooled = torch.cat([logit(self.heads, name, tokens) for name, groups in fake.items() for tokens in groups])
        return discriminator_loss(torch.cat(logits), fooled, torch.cat(penalties), r1_weight)

    def _look(self, x0: torch.Tensor, see: Callable, features: dict[str, list[torch.Tensor]]) -> torch.Tensor:
        sigma = uploaded(self.micro.sigma, x0.device, x0.dtype)

        def look(block: str, parts: list[torch.Tensor]) -> torch.Tensor:
            answers = []
            for name, tokens in named(block, parts):
                features.setdefault(name, []).append(tokens.detach())
                answers.append(see(name, tokens))
            return torch.cat(answers, 1)

        x = self.net.path.add_noise(x0, uploaded(self.micro.noise, x0.device, x0.dtype), sigma)
        return seen(self.net, self.blocks, x, sigma, self.rollout.prompts, self.rollout.index[self.micro.rows], look)


def named(block: str, parts: list[torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """A block's outputs by name, each [B, T, F], every position normalised."""
    return [(f"{block}.{number}", F.layer_norm(part, part.shape[-1:])) for number, part in enumerate(parts)]


def logit(heads: Bank, name: str, tokens: torch.Tensor) -> torch.Tensor:
    """[B, 1]: the verdict of one head on tokens [B, T, F], the mean over positions; above 0 means real."""
    hidden = F.silu(F.linear(tokens, heads[f"{name}.in.weight"], heads[f"{name}.in.bias"]))
    return F.linear(hidden, heads[f"{name}.out.weight"]).mean(1)


def new_heads(net: Network, rollout: Rollout) -> Bank:
    """Heads for every output of the network's feature blocks, float32 in RAM."""
    widths: dict[str, int] = {}

    def look(block: str, parts: list[torch.Tensor]) -> torch.Tensor:
        widths.update({name: tokens.shape[-1] for name, tokens in named(block, parts)})
        return parts[0][:, :1, 0]

    sigma = sigma_at(net.path, torch.full((1,), 0.5)).to(net.device)
    seen(net, feature_blocks(net), rollout.latents[:1].to(net.device), sigma, rollout.prompts, rollout.index[:1], look)
    random, heads = generator(0, Stream.DISCRIMINATOR), {}
    for name, width in widths.items():
        heads |= {f"{name}.in.weight": torch.randn(HIDDEN, width, generator=random) / width**0.5,
                  f"{name}.in.bias": torch.zeros(HIDDEN),
                  f"{name}.out.weight": torch.randn(1, HIDDEN, generator=random) / HIDDEN**0.5}
    return heads
