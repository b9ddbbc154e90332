"""The LoRA bank: the only trainable weights, laid over the user's frozen model.

For a linear layer y = W x the policy computes y + (alpha / rank) * B A x (arXiv:2106.09685); a convolution gets a
convolution of the same geometry as A and a 1x1 convolution as B; other kinds are in kinds.py. With no bank chosen, the layer's
own forward runs alone, which is the reference policy, bit for bit.
"""
from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...rewards.base.words import brief
from .checkpoint import checkpointed
from .frozen import casts, restore_forward, through_frozen
from .joined import joined, joins
from .kinds import HOSTS, KINDS, LORA, RS_LORA, Member, first_weights, laid_over, member_of
from .layers import CONVOLUTION, LINEAR, kind_of, lora_shapes, weight_kinds

TARGETS = {
    "attention": r"attn|attention",
    "attention and feed-forward": r"(^|\.)\d+\.(?!.*(adaLN|modulation|\bmod\b|emb|norm|time|skip|\.op$))",
    "all linear layers": r"",
    "all linear layers and convolutions": r"",
}


def _kaiming(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(math.prod(shape[1:]))


def _gaussian(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator) / shape[0]


# how A starts, by PEFT's names: normal, of std 1 / rank, as in official LoRAs, whatever the layer's width; or uniform in
# +-1 / sqrt(fan_in), which on a wide layer makes the first steps several times smaller
STARTS = {"gaussian": _gaussian, "kaiming": _kaiming}
FROM_LORA = "a LoRA"


@dataclass(frozen=True)
class Recipe:
    """Which layers the bank covers, how large it is and how it starts.

    rank: 1 or more; alpha: the bank's output is scaled by alpha / rank; targets: a key of TARGETS;
    pattern: a regular expression on module names that replaces the choice of ``targets`` when it is not empty;
    start: of A, a key of STARTS (what was saved without one started as "kaiming"), or FROM_LORA; open: names of the fields that
    were left to the recommended numbers; kind: one of KINDS; members: of a policy that begins from a LoRA, its layers, which then
    replace all other choices.
    """

    CHOICES: ClassVar[dict] = {"targets": tuple(TARGETS), "start": tuple(STARTS), "kind": KINDS}
    rank: int = 16
    alpha: float = 16.0
    targets: str = "attention and feed-forward"
    pattern: str = ""
    seed: int = 0
    start: str = "kaiming"
    open: tuple[str, ...] = ()
    kind: str = LORA
    members: dict[str, Member] | None = None
    __repr__ = brief

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.kind == RS_LORA else self.rank)


def trainable_layers(diffusion_model: torch.nn.Module, recipe: Recipe) -> dict[str, torch.nn.Module]:
    """The layers that the recipe names, in the model's own order. ValueError when there are none."""
    if recipe.members is not None:
        return {name: diffusion_model.get_submodule(name) for name in recipe.members}
    with_convolutions = recipe.pattern or recipe.targets == "all linear layers and convolutions"
    kinds = (LINEAR, CONVOLUTION) if with_convolutions else (LINEAR,)
    try:
        wanted = re.compile(recipe.pattern or TARGETS[recipe.targets])
    except re.error as error:
        raise ValueError(f"layer pattern {recipe.pattern!r} is not a valid regular expression ({error}); "
                         "correct it, or leave it empty to use the choice of layers above it") from None
    layers = {name: module for name, module in diffusion_model.named_modules()
              if kind_of(module) in kinds and wanted.search(name) and not _unsuited(module, bool(recipe.pattern))}
    if not layers:
        raise ValueError(_nothing_found(diffusion_model, recipe))
    return layers


def _nothing_found(model: torch.nn.Module, recipe: Recipe) -> str:
    what = f"pattern {recipe.pattern!r}" if recipe.pattern else f"choice {recipe.targets!r}"
    others = {kind: sum(kind_of(m) == kind and not _unsuited(m) for m in model.modules()) for kind in (LINEAR, CONVOLUTION)}
    if others[LINEAR]:
        remedy = "choose 'all linear layers' or another pattern"
    elif others[CONVOLUTION]:
        remedy = (f"it has no linear layer, but {others[CONVOLUTION]} convolutions: choose 'all linear layers and "
                  "convolutions' or another pattern")
    else:
        remedy = (f"{type(model).__name__} has no linear layer or convolution that this pack knows (its layers: "
                  f"{weight_kinds(model)}); load the model with ComfyUI's own loader")
    return f"model: no trainable layer matches the {what}; {remedy}"


def _unsuited(layer: Any, named: bool = False) -> bool:
    """Grouped convolutions, and layers with a few channels, as at the latent itself: nothing there is low-rank. A linear layer
    that a pattern names is taken all the same."""
    if kind_of(layer) == LINEAR:
        return not named and min(layer.in_features, layer.out_features) < 8
    return layer.groups != 1 or min(layer.in_channels, layer.out_channels) < 8


def members_of(layers: dict[str, torch.nn.Module], recipe: Recipe) -> dict[str, Member]:
    """How each of the layers is adapted; those in which the recipe's kind can do nothing are left out."""
    if recipe.members is not None:
        return recipe.members
    found = {name: member_of(layer, recipe.kind, recipe.rank, recipe.alpha) for name, layer in layers.items()}
    members = {name: member for name, member in found.items() if member is not None}
    if not members:
        raise ValueError(f"rank: {recipe.rank} leaves {recipe.kind} nothing to turn in these layers; choose 4 or more, a power "
                         "of two as a rule")
    return members


def new_bank(layers: dict[str, torch.nn.Module], recipe: Recipe) -> dict[str, torch.Tensor]:
    """Fresh weights in float32 on the CPU, with which nothing changes yet: A as ``recipe.start`` says and B zero, or as the host
    starts the recipe's kind."""
    if recipe.start not in STARTS:
        raise ValueError(f"start: unknown {recipe.start!r}; use one of {', '.join(STARTS)}")
    if recipe.kind not in KINDS:
        raise ValueError(f"kind: unknown {recipe.kind!r}; use one of {', '.join(KINDS)}")
    generator = torch.Generator().manual_seed(recipe.seed)
    bank: dict[str, torch.Tensor] = {}
    for name, member in members_of(layers, recipe).items():
        a, b = lora_shapes(layers[name], recipe.rank)
        fan_in = math.prod(a[1:])
        smallest = min(fan_in, b[0])
        if recipe.rank > smallest:
            raise ValueError(f"rank: {recipe.rank} is larger than layer {name!r} allows ({smallest}); "
                             f"choose a rank of {smallest} or less, or a pattern without this layer")
        if recipe.kind in HOSTS:
            bank |= {f"{name}.{part}": weight for part, weight in first_weights(layers[name], member, generator).items()}
        else:
            bank[f"{name}.lora_A"] = STARTS[recipe.start](a, generator)
            bank[f"{name}.lora_B"] = torch.zeros(b)
    return bank


def largest_rank(layers: dict[str, torch.nn.Module]) -> int:
    """The largest rank that ``new_bank`` takes for these layers."""
    shapes = [lora_shapes(layer, 1) for layer in layers.values()]
    return min(min(math.prod(a[1:]), b[0]) for a, b in shapes)


def repeated_blocks(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The outermost modules of which the network has several alike, containers and single layers left out."""
    containers = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential)
    counts = Counter(type(m) for m in model.modules())
    blocks: dict[str, torch.nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in blocks)
        composite = next(module.children(), None) is not None
        if name and composite and not inside and not isinstance(module, containers) and counts[type(module)] > 1:
            blocks[name] = module
    return blocks


def guest_key(number: int, key: str) -> str:
    """What a weight of guest ``number`` is called while the guest's bank is on."""
    return f"guest {number}: {key}"


class Overlay:
    """Replaces the forward of each covered layer while it is in place, and says which bank is on.

    ``active`` is None (the reference) or a bank whose tensors are already on the layers' device; ``reference``: the bank that is
    on where none is chosen, None where that is the model alone;
    ``recompute`` makes the network's repeated blocks forget their activations until the backward pass: all of them, or the first
    so many, whose activations would be held longest.
    """

    def __init__(self, model: torch.nn.Module, layers: dict[str, torch.nn.Module], members: dict[str, Member],
                 guests: Sequence[dict[str, Member]] = ()):
        """guests: members of further banks, which may be of other layers, kinds and ranks; see ``guest_key``."""
        self.model, self.members, self.guests = model, members, guests
        self.layers = {name: layers[name] for name in members}
        self.active: dict[str, torch.Tensor] | None = None
        self.reference: dict[str, torch.Tensor] | None = None
        self.recompute: bool | int = False
        self.blocks = repeated_blocks(model)
        self._originals: list[tuple[torch.nn.Module, object]] = []

    def recompute_share(self, share: float, at_least: bool | int = False) -> None:
        """Of the blocks, rounded up; at_least: as ``recompute``."""
        self.recompute = share >= 1 or at_least is True or max(math.ceil(share * len(self.blocks)), at_least)

    def inject(self) -> None:
        strangers = {name: self.model.get_submodule(name) for guest in self.guests for name in guest if name not in self.layers}
        layers = self.layers | strangers
        covered = set(layers.values())
        for name, layer in layers.items():
            self._replace(layer, self._layer_forward(name, layer, through_frozen(layer, layer.forward)))
        for module in self.model.modules():
            if module not in covered and casts(module):
                self._replace(module, through_frozen(module, module.forward))
        for number, (name, block) in enumerate(self.blocks.items()):
            self._replace(block, self._block_forward(number, name, block.forward))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        self.inject()
        try:
            yield
        finally:
            self.eject()

    def eject(self) -> None:
        for module, original in reversed(self._originals):
            restore_forward(module, original)
        self._originals = []

    def _replace(self, module: torch.nn.Module, forward) -> None:
        # an instance attribute left by another pack is put back as it was
        self._originals.append((module, module.__dict__.get("forward")))
        module.forward = forward

    def _block_forward(self, number: int, name: str, base):
        keys = [key for layer in self.members if layer.startswith(f"{name}.") for key in self._keys(layer)]

        def block(*args, **kwargs):
            if not (torch.is_grad_enabled() and (self.recompute is True or number < self.recompute)):
                return base(*args, **kwargs)
            bank = self.active

            def run(weights, *inner_args, **inner_kwargs):
                before = self.active
                self.active = None if bank is None else {**bank, **dict(zip(keys, weights))}
                try:
                    return base(*inner_args, **inner_kwargs)
                finally:
                    self.active = before

            weights = [] if bank is None else [bank[key] for key in keys]
            return checkpointed(run, self.model, weights, *args, **kwargs)

        return block

    def _layer_forward(self, name: str, layer: torch.nn.Module, base):
        own = [(guest[name], [guest_key(number, f"{name}.{part}") for part in guest[name].parts])
               for number, guest in enumerate(self.guests) if name in guest]
        if name in self.members:
            own.append((self.members[name], self._keys(name)))
        laid = [(keys, laid_over(layer, member, base), member.scale if joins(layer, member) else None) for member, keys in own]

        def adapted(x, *args, **kwargs):
            bank = self.active or self.reference or {}
            for keys, over, scale in laid:
                if keys[0] in bank:  # a guest's bank, or the policy's own, which need not have all layers of the other
                    weights = [bank[key] for key in keys]
                    at_once = None if scale is None or args or kwargs else joined(layer, scale, x, *weights)
                    return over(x, base(x, *args, **kwargs), *weights) if at_once is None else at_once
            return base(x, *args, **kwargs)

        return adapted

    def _keys(self, name: str) -> list[str]:
        return [f"{name}.{part}" for part in self.members[name].parts]
