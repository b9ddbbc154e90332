"""What the user's own frozen network sees in noisy latents: outputs of its middle blocks, averaged over the picture."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from ..prompts import PromptSet
from .bank import repeated_blocks
from .network import Network

DEPTHS = (1 / 3, 1 / 2, 2 / 3)


class _Enough(Exception):
    """Every block that was asked for has answered; the rest of the network need not run."""


def feature_blocks(net: Network) -> tuple[str, ...]:
    """Names of one to three of the network's repeated blocks, from its middle third, where it understands most."""
    # numbered ones only: embedders of time or text repeat too, but see no picture
    names = [name for name in repeated_blocks(net.diffusion_model) if any(part.isdigit() for part in name.split("."))]
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
    wanted, index = {modules[name]: name for name in blocks}, torch.as_tensor(index)
    places = net.alike(prompts, index, tuple(x.shape[1:]))
    parts = [_features(net, wanted, x[place], sigma[place], prompts, index[place]) for place in places]
    return torch.cat(parts)[torch.cat(places).argsort()]


def _features(net: Network, wanted: dict[torch.nn.Module, str], x, sigma, prompts: PromptSet, index) -> torch.Tensor:
    found: dict[str, torch.Tensor] = {}

    def keep(module, _inputs, output):
        found[wanted[module]] = _pooled(output)
        if len(found) == len(wanted):
            raise _Enough

    hooks = [module.register_forward_hook(keep) for module in wanted]
    try:
        net.denoise(x, sigma, prompts, index, 1.0, None)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat([found[name] for name in wanted.values()], 1)


def _pooled(output) -> torch.Tensor:
    """[B, F] of a block's output: tokens [B, T, F], maps [B, F, H, W], or several of them."""
    parts = output if isinstance(output, (tuple, list)) else (output,)
    means = [part.float().mean(1) if part.ndim == 3 else part.float().flatten(2).mean(2)
             for part in parts if isinstance(part, torch.Tensor) and part.ndim >= 3]
    return torch.cat([F.layer_norm(mean, mean.shape[1:]) for mean in means], 1)
