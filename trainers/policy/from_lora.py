"""A LoRA that exists, as the beginning of a bank: whatever the host's own loader reads, and the layers are this model's."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import comfy.lora
import comfy.lora_convert
import comfy.weight_adapter
import torch

from ...rewards.base.words import brief, from_group, shown
from .diffusers_names import is_installed, names_of_diffusers
from .from_kinds import NAMES, OTHER_SIZE, Unfit, held
from .kinds import BIAS, LORA, NORMS, PAIR, WEIGHT, Member
from .layers import kind_of
from .lora_names import as_the_host_reads, flat_name
from .lora_origin import made_for, may_be_for
from .lora_pieces import Piece, joined, piece_of
from .recommended import family

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

SHOWN = 3
NO_LAYER = "is no layer of this model"
# what the host's loader looks for behind a layer's name
ENDINGS = re.compile(
    r"(\.lora_(up|down|mid)\.weight|_lora\.(up|down)\.weight|\.lora\.(up|down)\.weight"
    r"|\.lora_[AB](\.default)?\.weight|\.lora_[AB]|\.lora_linear_layer\.(up|down)\.weight|\.reshape_weight"
    r"|\.alpha|\.dora_scale|\.hada_\w+|\.lokr_\w+|\.oft_blocks|\.rescale|\.[ab][12]\.weight|\.[wb]_norm"
    r"|\.diff|\.diff_b|\.set_weight)$"
)
TEXT = re.compile(r"(lora_te|lora_prior_te|lycoris_te|text_encoder|te\d?\.|clip_|t5xxl|conditioner\.)")


@dataclass(frozen=True)
class ReadLora:
    """members, bank: of the layers that were read, float32 on the CPU; found, layers: how many of how many layers of the file;
    text: how many more are for the text encoder, which a policy does not train."""

    members: dict[str, Member]
    bank: dict[str, torch.Tensor]
    found: int
    layers: int
    text: int = 0
    __repr__ = brief

    @property
    def words(self) -> str:
        ranks = sorted({member.rank for member in self.members.values() if set(member.parts) & set(PAIR)})
        size = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no matrices"
        kinds = sorted({member.kind for member in self.members.values()} - {LORA})
        size = ", ".join([size, *kinds] if ranks else kinds or [size])
        part = "" if self.found == self.layers else f" of {self.layers}"
        text = (
            f" {self.text} more are for the text encoder and are not trained: load them with LoraLoader." if self.text else ""
        )
        return (
            f"Begins from your LoRA: {self.found}{part} layers, {size}, in {len(self.members)} layers of the model; rank, "
            f"alpha, layers, layer_pattern, start and kind are the LoRA's, and those set here are not used.{text}"
        )


class _Refused(Exception):
    """Why the LoRA cannot be begun from, in words."""


def read_lora(
    model: ModelPatcher,
    tensors: Mapping[str, torch.Tensor],
    partly: bool = False,
    metadata: Mapping[str, str] | None = None,
    field: str = "lora",
) -> ReadLora:
    """tensors: of a LoRA file or a LORA_MODEL; partly: go on with the layers that fit; metadata: the file's.

    ValueError names ``field`` and says that it is no LoRA, one of another architecture, one that fits in part, or of what kind
    that cannot be trained.
    """
    try:
        return _read(model, tensors, partly, metadata or {})
    except _Refused as error:
        raise ValueError(f"{field}: {error}") from None


def _read(model: ModelPatcher, tensors: Mapping[str, torch.Tensor], partly: bool, metadata: Mapping[str, str]) -> ReadLora:
    with torch.inference_mode(False), torch.no_grad():
        tensors = {key: value.detach().cpu().clone() for key, value in _checked(tensors).items()}
        tensors = comfy.lora_convert.convert_lora(tensors)
        names: dict[str, object] = comfy.lora.model_lora_keys_unet(model.model, {})
        tensors = _in_host_names(tensors, metadata, names)
        layers, text = _layers_of(tensors)
        if not all(name in names for name in layers):
            names |= _by_diffusers(model.model.diffusion_model, names, layers)
        patches = comfy.lora.load_lora(tensors, names, log_missing=False)
        if not layers:
            raise _Refused(
                "it holds no LoRA, only other tensors"
                + (f", and {text} layers for a text encoder, which a policy does not train" if text else "")
                + "; choose a LoRA for the model"
            )
        origin = {target: name for name in layers for target in _targets(names.get(name)) if target in patches}
        pieces, kinds, others, unfit = _sorted(model.model.diffusion_model, patches, origin)
        strangers = [name for name in layers if name not in origin.values()]
        lost = len({*strangers, *(name for at in unfit.values() for name in at)})
        if lost and not (partly and lost < len(layers)):
            raise _Refused(_refused(model, tensors, metadata, layers, strangers, unfit))
        members, bank = _bank_of(model.model.diffusion_model, pieces, kinds, others)
        return ReadLora(members, bank, len(layers) - lost, len(layers), text)


def _in_host_names(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], names: Mapping) -> dict[str, torch.Tensor]:
    try:
        return as_the_host_reads(tensors, metadata, names)
    except ValueError as error:
        raise _Refused(str(error)) from None


def _by_diffusers(network: torch.nn.Module, known: Mapping, layers: list[str]) -> dict[str, object]:
    """Names of diffusers' layers that the host does not know, or knows of a relative of the model."""
    flat = {name: flat_name(name) for name in layers}
    found = names_of_diffusers(network, set(flat.values()))
    more = {name: found[there] for name, there in flat.items() if there in found}
    return more if len(more) > sum(name in known for name in layers) else {}


def _checked(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    if not isinstance(tensors, Mapping) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise _Refused("a LoRA's weights are needed, by name; connect the LORA_MODEL of Train LoRA, or choose a file")
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(value.float().isfinite().all()):
            raise _Refused(
                f"{shown(key)} holds NaN or infinite numbers, so the LoRA is broken; take an earlier one of its training"
            )
    return tensors


def _layers_of(tensors: Mapping[str, torch.Tensor]) -> tuple[list[str], int]:
    """The names of the file's layers without those of text encoders, and how many those are. A tensor that no loader of the host
    reads counts as a layer of its own, where there is a LoRA at all."""
    found = {key: ENDINGS.sub("", key) for key in tensors}
    if not any(key != name and not key.endswith(".alpha") for key, name in found.items()):
        return [], 0
    names = list(dict.fromkeys(found.values()))
    return [name for name in names if not TEXT.match(name)], sum(bool(TEXT.match(name)) for name in names)


def _targets(target) -> tuple:
    """Where the host puts what it finds under a layer's name: the weight or a slice of it, and the bias."""
    return (target, f"{target.removesuffix('.weight')}.bias") if isinstance(target, str) else (target,)


def _sorted(network: torch.nn.Module, patches: Mapping, origin: Mapping):
    """Pieces of LoRAs, members of other kinds, and differences of weights and biases, each by layer; and what cannot be trained:
    why -> the layers of the file (origin: of each patch)."""
    pieces: dict[str, list[Piece]] = defaultdict(list)
    kinds: dict[str, tuple[Member, dict[str, torch.Tensor]]] = {}
    others: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    unfit: dict[str, list[str]] = defaultdict(list)
    for target, patch in patches.items():
        key, offset, function = (target, None, None) if isinstance(target, str) else (*target, None)[:3]
        name, _, parameter = key.removeprefix("diffusion_model.").rpartition(".")
        try:
            layer = _layer(network, name, parameter, key)
            if isinstance(patch, comfy.weight_adapter.WeightAdapterBase):
                if name in kinds or name in pieces and patch.name in NAMES:
                    raise Unfit("belongs to a layer that has another kind already")
                if patch.name in NAMES and kind_of(layer) is not None:
                    kinds[name] = held(layer, patch, offset is None and function is None)
                else:
                    piece = piece_of(layer, patch, offset, function)
                    if not 0 < abs(piece.scale) < float("inf"):
                        raise Unfit(f"has alpha {patch.weights[2]:g}")
                    pieces[name].append(piece)
            else:
                others[name] |= _difference(layer, parameter, patch, offset)
        except Unfit as error:
            unfit[str(error)].append(origin.get(target, key))
    return {k: v for k, v in pieces.items() if v}, kinds, {k: v for k, v in others.items() if v}, unfit


def _layer(network: torch.nn.Module, name: str, parameter: str, key: str) -> torch.nn.Module:
    if not key.startswith("diffusion_model.") or parameter not in ("weight", "bias"):
        raise Unfit("is no layer's weight or bias")
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        raise Unfit(NO_LAYER) from None
    if kind_of(layer) is None and not isinstance(layer, NORMS) or getattr(layer, "groups", 1) != 1:
        raise Unfit(f"belongs to a layer of the kind {type(layer).__name__}, which is not trained")
    return layer


def _difference(layer: torch.nn.Module, parameter: str, patch: tuple, offset) -> dict[str, torch.Tensor]:
    kind, value = patch[0], patch[1][0]
    if kind != "diff" or offset is not None:
        raise Unfit(f"is replaced ({kind}), not adapted")
    if parameter == "weight" and not isinstance(layer, NORMS):
        raise Unfit("is a full difference of its weights, no matrices of low rank")
    weight = getattr(layer, parameter, None)
    if weight is None or weight.shape != value.shape:
        raise Unfit(OTHER_SIZE)
    return {WEIGHT if parameter == "weight" else BIAS: value.float()}


def _bank_of(network: torch.nn.Module, pieces, kinds, others) -> tuple[dict[str, Member], dict[str, torch.Tensor]]:
    """In the model's own order."""
    members: dict[str, Member] = {}
    bank: dict[str, torch.Tensor] = {}
    for name, layer in network.named_modules():
        if not any(name in found for found in (pieces, kinds, others)):
            continue
        member, weights = kinds.get(name, (Member(), {}))
        if name in pieces:
            a, b, alpha = joined(layer, pieces[name])
            member, weights = Member(LORA, len(a), alpha), dict(zip(PAIR, (a, b)))
        weights = weights | {part: others[name][part] for part in (WEIGHT, BIAS) if part in others.get(name, {})}
        members[name] = replace(member, parts=tuple(weights))
        bank |= {f"{name}.{part}": weight.contiguous() for part, weight in weights.items()}
    return members, bank


def _refused(
    model: ModelPatcher, tensors, metadata, layers: list[str], strangers: list[str], unfit: dict[str, list[str]]
) -> str:
    missing, sizes = strangers + unfit.get(NO_LAYER, []), unfit.get(OTHER_SIZE, [])
    kinds = {why: at for why, at in unfit.items() if why not in (NO_LAYER, OTHER_SIZE)}
    fit = len(layers) - len({*strangers, *(name for at in unfit.values() for name in at)})
    kin = may_be_for(tensors, model.model.diffusion_model)
    if not fit and not kin and 2 * len({*missing, *sizes}) > len(layers):
        return (
            f"it was made for {made_for(tensors, metadata)}, and your model is {family(model).words}; choose a LoRA for this "
            "model, or the model of this LoRA"
        )
    said = [f"{_some(at)} {why}" for why, at in kinds.items()]
    if missing and kin and not fit:
        said.append(f"{len(missing)} under names that ComfyUI does not know for this model: {_some(missing)}")
    elif missing:
        said.append(f"{len(missing)} not in this model: {_some(missing)}")
    if sizes:
        said.append(f"{len(sizes)} of another size: {_some(sizes)}")
    lacks_names = missing and kin and not is_installed()
    return (
        f"only {fit} of {len(layers)} layers can be trained in this model ({'; '.join(said)}); "
        + ("switch 'partly' on to go on with those, or choose another" if fit else "choose a LoRA that was made for this model")
        + (
            f", or install the package 'diffusers' {from_group('interchange')}, by which names of its layers are read"
            if lacks_names
            else ""
        )
    )


def _some(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
