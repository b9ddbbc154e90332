"""What the user's own frozen network sees in noisy latents: outputs of its middle blocks."""
from __future__ import annotations

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ...rewards.base.half import scaled
from ..prompts import PromptSet
from .bank import repeated_blocks
from .network import Network

DEPTHS = (1 / 3, 1 / 2, 2 / 3)


class _Enough(Exception):
    """Every block that was asked for has answered; the rest of the network need not run."""


def feature_blocks(net: Network) -> tuple[str, ...]:
    """Names of one to three of the network's repeated blocks, from its middle third, where it understands most."""
    # numbered ones only: embedders of time or text repeat too, but see no picture
    names = [name for name in repeated_blocks(net.diffusion_model) if re.search(r"\d(\.|$)", name)]
    if not names:
        raise ValueError(f"model: {type(net.diffusion_model).__name__} has no repeated blocks to take features from; judge "
                         "decoded images with a reward instead")
    return tuple(dict.fromkeys(names[round(depth * (len(names) - 1))] for depth in DEPTHS))


@torch.no_grad()
def block_features(net: Network, blocks: tuple[str, ...], x: torch.Tensor, sigma: torch.Tensor, prompts: PromptSet,
                   index) -> torch.Tensor:
    """[B, F] float32: per block the mean of its output over positions, normalised, under the reference policy.

    x: [B, C, H, W] noisy latents in the model's own convention; sigma, index: [B]. Counts as one evaluation of the
    network, though only its first part runs. ValueError where the model has no block of that name.
    """
    modules = dict(net.diffusion_model.named_modules())
    if missing := [name for name in blocks if name not in modules]:
        raise ValueError(f"step reward: it was trained on another model, with a block {missing[0]!r}; train it on the model "
                         "of this policy")
    return seen(net, blocks, x, sigma, prompts, index, lambda name, parts: _pooled(parts))


def seen(net: Network, blocks: tuple[str, ...], x: torch.Tensor, sigma: torch.Tensor, prompts: PromptSet, index,
         see: Callable[[str, list[torch.Tensor]], torch.Tensor]) -> torch.Tensor:
    """[B, K] float32: what ``see`` makes of the blocks' outputs under the reference policy, side by side.

    see(block, parts) -> [b, k] is called in the order in which the blocks run, for b samples whose prompts go through
    the network together; parts: the block's outputs (picture, text), each [b, T, F] float32. Gradients reach x.
    """
    wanted = {net.diffusion_model.get_submodule(name): name for name in blocks}
    index = torch.as_tensor(index)

    def run(x):
        places = net.alike(prompts, index, x, sigma)
        parts = [_answers(net, wanted, see, x[place], sigma[place], prompts, index[place]) for place in places]
        return torch.cat(parts)[torch.cat(places).argsort()]

    # the network's own guard against vanishing gradients is not reached where its run is cut short
    half = torch.is_grad_enabled() and x.requires_grad and net.dtype == torch.float16
    return scaled(run, x) if half else run(x)


def _answers(net: Network, wanted: dict[torch.nn.Module, str], see, x, sigma, prompts: PromptSet, index) -> torch.Tensor:
    found: dict[str, torch.Tensor] = {}

    def look(module, _inputs, output):
        # at once, since networks may overwrite in place what a block has answered
        found[wanted[module]] = see(wanted[module], _parts(output, len(x), wanted[module]))
        if len(found) == len(wanted):
            raise _Enough

    hooks = [module.register_forward_hook(look) for module in wanted]
    try:
        net.conditional(x, sigma, prompts, index)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [name for name in wanted.values() if name not in found]:
        raise ValueError(f"model: its block {missing[0]!r} does not run with these prompts, so no features can be taken from "
                         "it; judge decoded images with a reward instead")
    return torch.cat([found[name] for name in wanted.values()], 1)


def _parts(output, batch: int, name: str) -> list[torch.Tensor]:
    """[B, T, F] each, of a block's output: tokens [B, T, F], maps [B, F, H, W], a frame's tokens [B, 1, H, W, F], or more."""
    parts = output if isinstance(output, (tuple, list)) else (output,)
    parts = [part.float() for part in parts if isinstance(part, torch.Tensor) and part.ndim >= 3]
    if any(len(part) != batch for part in parts):
        raise ValueError(f"model: its block {name!r} does not answer sample by sample, so no features can be taken from it; "
                         "judge decoded images with a reward instead")
    return [part if part.ndim == 3 else part.flatten(1, -2) if part.ndim == 5 and part.shape[1] == 1
            else part.flatten(2).transpose(1, 2) for part in parts]


def _pooled(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([F.layer_norm(mean, mean.shape[1:]) for mean in (part.mean(1) for part in parts)], 1)
