"""A LoRA in the names of other tools, by the host's own map of names read backwards.

ComfyUI knows under which names other tools' LoRAs come (``comfy.lora.model_lora_keys_unet``): name -> its own weight, or
a slice of it, or the weight with its rows in another order. Here each weight is given its name back. A layer that the other
tool has in parts (q, k and v; q, k, v and the mlp) is cut as the map says: the rows of B are divided, A stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.lora
import torch

from ...rewards.base.words import brief
from .kinds import LORA, PAIR, RS_LORA
from .layers import layer_shapes
from .value import Policy

COMFYUI, KOHYA, DIFFUSERS, PEFT = "ComfyUI", "kohya", "diffusers", "peft"
TARGETS = (COMFYUI, KOHYA, DIFFUSERS, PEFT)
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OWN, FLAT, UNET, LISTED = "diffusion_model.", "lora_unet_", "unet.", "lycoris_"


@dataclass(frozen=True)
class Pair:
    """One layer of a LoRA: up [out, r] times down [r, in], scaled by alpha / r; convolutions [out, r, 1, 1] and [r, in, h, w]."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    __repr__ = brief

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def unscaled(self) -> Pair:
        """The same with alpha = rank, its scale in ``up``."""
        return self if self.alpha == self.rank else replace(self, up=self.up * (self.alpha / self.rank), alpha=float(self.rank))


Lora = dict[str, Pair]  # by the layer's name in the host's network


@dataclass(frozen=True)
class Name:
    """A layer's name elsewhere. rows: (first, how many) of its outputs, None for all; turned: what the host does to its rows."""

    text: str
    rows: tuple[int, int] | None = None
    turned: Callable | None = None

    def of(self, pair: Pair) -> Pair:
        if self.turned is not None:
            pair = replace(pair, up=_turned_back(pair.up, self.turned, self.text))
        return pair if self.rows is None else replace(pair, up=pair.up.narrow(0, *self.rows))


def trained(policy: Policy, use_average: bool = True) -> Lora:
    """What was learned, layer by layer. ValueError where that is more than a LoRA's matrices."""
    weights, members = policy.weights(use_average), policy.members()
    if not is_pairs(policy):
        kinds = sorted({member.kind for member in members.values()} - {LORA, RS_LORA}) or ["biases and norms of Train LoRA"]
        raise ValueError(
            f"policy: it holds {', '.join(kinds)} besides a LoRA's matrices, which only ComfyUI's own form can "
            f"hold; save it for {COMFYUI}, without the LoRAs below"
        )
    alphas = {name: float(member.alpha) for name, member in members.items()}
    layers = [key.removesuffix(".lora_A") for key in weights if key.endswith(".lora_A")]
    return {
        name: Pair(
            weights[f"{name}.lora_A"].detach(), weights[f"{name}.lora_B"].detach(), alphas.get(name, float(policy.recipe.alpha))
        )
        for name in layers
    }


def is_pairs(policy: Policy) -> bool:
    """Whether all that was trained are the two matrices of LoRAs."""
    return all(member.parts == PAIR for member in policy.members().values())


def lora_as(policy: Policy, target: str, precision: str = "float32", use_average: bool = True) -> dict[str, torch.Tensor]:
    """What was learned as a state dict in the names of ``target``, one of TARGETS; see ``in_names``."""
    return in_names(trained(policy, use_average), policy.model, target, precision)


def in_names(lora: Lora, model, target: str, precision: str = "float32") -> dict[str, torch.Tensor]:
    """A state dict in the names of ``target``. ValueError: the host has no such names for this model or for a layer of the LoRA.

    ComfyUI: "diffusion_model.<layer>.lora_A.weight", ".lora_B.weight" and ".alpha". kohya: "lora_unet_<name>.lora_down.weight",
    ".lora_up.weight" and ".alpha". diffusers: "transformer.<name>.lora_A.weight" ("unet." where it is one) and ".lora_B.weight"
    with the scale in B, since most of its loaders read no alpha. peft: "base_model.model.<name>.lora_A.weight" and
    ".lora_B.weight", the scale in adapter_config.json. precision: a key of PRECISIONS.
    """
    parts = named(lora, model, target)
    if target == DIFFUSERS:
        parts = {name: pair.unscaled() for name, pair in parts.items()}
    down, up = ("lora_down", "lora_up") if target == KOHYA else ("lora_A", "lora_B")
    tensors = {}
    for name, pair in parts.items():
        tensors[f"{name}.{down}.weight"] = stored(pair.down, precision, name)
        tensors[f"{name}.{up}.weight"] = stored(pair.up, precision, name)
        if target in (COMFYUI, KOHYA):
            tensors[f"{name}.alpha"] = torch.tensor(pair.alpha)
    return tensors


def named(lora: Lora, model, target: str) -> Lora:
    """The LoRA by ``target``'s names of its layers, those that it has in parts cut. ValueError as ``in_names``."""
    if target == COMFYUI:
        return {f"{OWN}{layer}": pair for layer, pair in lora.items()}
    names = names_of(model, target)
    unknown = [layer for layer in lora if layer not in names]
    if unknown:
        raise ValueError(
            f"{target}: ComfyUI has no name that {target} would know for {len(unknown)} of the {len(lora)} trained layers "
            f"({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}); save for {COMFYUI}, or train "
            "without these layers"
        )
    return {name.text: name.of(pair) for layer, pair in lora.items() for name in names[layer]}


def names_of(model, target: str) -> dict[str, list[Name]]:
    """Layer of the host's network -> its names in ``target``. ValueError where the host has none, or none that fit."""
    known = _by_layer(comfy.lora.model_lora_keys_unet(model.model, {}))
    names = _flat(known) if target == KOHYA else _dotted(known, model, target)
    if not names:
        raise ValueError(
            f"{target}: ComfyUI has no names for {_kind(model)} that {target} would know; possible are {COMFYUI}, whose "
            f"names newer versions of diffusers know for several such models, and {KOHYA}"
        )
    if target == PEFT:
        return {layer: [replace(name, text=_of_network(name.text)) for name in found] for layer, found in names.items()}
    return names


def _by_layer(key_map: dict) -> dict[str, list[Name]]:
    """The host's map, backwards: layer -> all its names, in the map's order."""
    known: dict[str, list[Name]] = {}
    for text, to in key_map.items():
        key, place, turned = (*to, None, None)[:3] if isinstance(to, tuple) else (to, None, None)
        if not (isinstance(key, str) and key.startswith(OWN) and key.endswith(".weight")):
            continue
        if place is not None and place[0] != 0:
            raise ValueError(f"{text}: this ComfyUI cuts the inputs of {key}, which is not supported; save for {COMFYUI}")
        rows = None if place is None else (place[1], place[2])
        known.setdefault(key[len(OWN) : -len(".weight")], []).append(Name(text, rows, turned))
    return known


def _flat(known: dict[str, list[Name]]) -> dict[str, list[Name]]:
    """kohya's: the name that comes from diffusers where there is exactly one, as for UNets, else ComfyUI's own."""
    names = {}
    for layer, every in known.items():
        flat = [name for name in every if name.text.startswith(FLAT) and name.rows is None]
        own = [name for name in flat if name.text == FLAT + layer.replace(".", "_")]
        others = [name for name in flat if name not in own]
        names[layer] = others if len(others) == 1 else own
    return {layer: found for layer, found in names.items() if found}


def _dotted(known: dict[str, list[Name]], model, target: str) -> dict[str, list[Name]]:
    """diffusers': of transformers, else of UNets, else those that the host takes as its own form."""
    names = _chosen(known, model, target, lambda layer, name: name.text.startswith("transformer."))
    if names:
        return names
    unet = _those(known, lambda layer, name: name.text.startswith(UNET) and not name.text.startswith("unet.base_model"))
    if unet:
        return {layer: [replace(name, text=_today(name.text)) for name in found] for layer, found in unet.items()}
    listed = {name.text for every in known.values() for name in every if name.text.startswith(LISTED)}

    def kept(layer: str, name: Name) -> bool:
        return name.text.startswith(OWN) and LISTED + name.text.removeprefix(OWN).replace(".", "_") in listed

    renamed = _chosen(known, model, target, kept)
    return {
        layer: [replace(name, text="transformer." + name.text.removeprefix(OWN)) for name in found]
        for layer, found in renamed.items()
    }


def _those(known: dict[str, list[Name]], wanted: Callable) -> dict[str, list[Name]]:
    found = {layer: [name for name in every if wanted(layer, name)] for layer, every in known.items()}
    return {layer: names for layer, names in found.items() if names}


def _chosen(known: dict[str, list[Name]], model, target: str, wanted: Callable) -> dict[str, list[Name]]:
    """One way of naming for the whole network: the map's first where its cuts fit every layer, else its last (newer kin)."""
    candidates = _those(known, wanted)
    rows = {name: b[0] for name, (_, b) in layer_shapes(model.model.diffusion_model).items()}
    for at in (0, -1):
        names = {layer: _one_way(every, at) for layer, every in candidates.items() if layer in rows}
        misfits = [layer for layer, found in names.items() if not _covers(found, rows[layer])]
        if not misfits:
            return names
    raise ValueError(
        f"{target}: ComfyUI has these names for another network than {_kind(model)}: its parts of {misfits[0]} "
        f"do not make up the {rows[misfits[0]]} outputs of the layer; save for {COMFYUI} or {KOHYA}"
    )


def _one_way(every: list[Name], at: int) -> list[Name]:
    return [every[at]] if every[at].rows is None else [name for name in every if name.rows is not None]


def _covers(found: list[Name], outputs: int) -> bool:
    """Whether the parts make up the layer, without gap or overlap."""
    if found[0].rows is None:
        return True
    end = 0
    for first, many in sorted(name.rows for name in found if name.rows is not None):
        if first != end:
            return False
        end = first + many
    return end == outputs


def _today(text: str) -> str:
    """The host's map has UNets' names as diffusers had them when attention was in processors."""
    text = text.replace(".processor.to_", ".to_")
    return f"{text}.0" if text.endswith(".to_out") else text


def _turned_back(up: torch.Tensor, turned: Callable, name: str) -> torch.Tensor:
    """What the host turns into ``up``. It only swaps halves today, which undoes itself; anything else is refused."""
    if not torch.equal(turned(turned(up)), up):
        raise ValueError(f"{name}: this ComfyUI changes this layer's rows in a way that is not known here; save for {COMFYUI}")
    return turned(up)


def stored(tensor: torch.Tensor, precision: str, name: str) -> torch.Tensor:
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
    stored = tensor.detach().to(PRECISIONS[precision]).clone().contiguous()
    if stored.isinf().any() and not tensor.isinf().any():
        raise ValueError(f"precision: layer {name} holds numbers that {precision} cannot; choose bfloat16 or float32")
    return stored


def _kind(model) -> str:
    return type(model.model.model_config).__name__


def _of_network(text: str) -> str:
    """As PEFT has it: without the word for the network in the pipeline."""
    inside = next(text.removeprefix(start) for start in ("transformer.", UNET) if text.startswith(start))
    return f"base_model.model.{inside}"
