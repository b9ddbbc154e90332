"""One LoRA out of several: what lies under the policy, as LoraLoader put it on the MODEL, and what was trained.

    sum_i s_i (alpha_i / r_i) B_i A_i = [s_1 (alpha_1 / r_1) B_1, ...] [A_1; ...]

Exact, with the ranks added; or the best approximation of a lower rank, by the singular values of the sum (Eckart and Young 1936).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import comfy.lora
import comfy.weight_adapter
import torch

from ...rewards.base.words import brief
from .from_kinds import Unfit
from .interchange import OWN, Lora, Pair, trained
from .layers import layer_shapes
from .lora_pieces import joined, piece_of
from .value import Policy
from .weights import is_plain


@dataclass(frozen=True)
class Together:
    """lora: the sum; below: on how many layers LoRAs lay under the policy; lost: |whole - cut| / |whole|, of all layers."""

    lora: Lora
    below: int
    lost: float = 0.0
    __repr__ = brief


def together(policy: Policy, rank: int | None = None, use_average: bool = True) -> Together:
    """What was trained and all LoRAs under it as one. rank: of the cut, 1 or more; None: exact, ranks are added.

    ValueError names what lies under the policy and is no plain LoRA: cut to a rank, everything that changes a layer's weight
    can be taken in, by the host's own rule; exact, only plain LoRAs can.
    """
    if rank is not None and rank < 1:
        raise ValueError(f"rank: {rank} is not possible; choose 1 or more")
    ours = trained(policy, use_average)
    patches = {key: found for key, found in policy.model.patches.items() if any(_counts(patch) for patch in found)}
    network = policy.model.model.diffusion_model
    shapes = layer_shapes(network)
    sums: dict[str, Pair | torch.Tensor] = {}
    for key, found in patches.items():
        layer = _layer(key, shapes)
        sums[layer] = _sum(policy.model, key, found, network.get_submodule(layer), exact=rank is None)
    for layer, pair in ours.items():
        sums[layer] = _plus(sums.get(layer), pair)
    if rank is None:
        return Together({layer: pair for layer, pair in sums.items() if isinstance(pair, Pair)}, len(patches))
    return _cut(sums, shapes, rank, len(patches))


def _layer(key: str, shapes: dict) -> str:
    layer = key.removeprefix(OWN).removesuffix(".weight")
    if not (key.startswith(OWN) and key.endswith(".weight") and layer in shapes):
        raise ValueError(
            f"LoRAs below: what lies under the policy changes {key}, which no LoRA can (a bias, a norm or a layer of "
            "another kind); leave it out, or connect the model from before that node"
        )
    return layer


def _sum(model, key: str, patches: list, layer: torch.nn.Module, exact: bool) -> Pair | torch.Tensor:
    reasons = [reason for patch in patches if _counts(patch) and (reason := _not_plain(patch))]
    if not reasons:
        return _as_pair([patch for patch in patches if _counts(patch)], key, layer)
    if exact:
        raise ValueError(
            f"LoRAs below: on {key} lies {reasons[0]}, which is no plain LoRA and cannot be added exactly; cut the "
            "sum to a rank, leave it out, or connect the model from before that node"
        )
    return _difference(model, key, patches)


def _counts(patch: tuple) -> bool:
    return patch[0] != 0 or patch[2] != 1


def _not_plain(patch: tuple) -> str:
    """What a patch of the host is where it is no plain LoRA: (strength, what, model's strength, place, what is done)."""
    _, what, of_model, rows, _ = patch
    if of_model != 1:
        return "a merge of models"
    if rows is not None and rows[0] != 0:
        return "a LoRA on a part of its inputs"
    if not isinstance(what, comfy.weight_adapter.LoRAAdapter):
        return f"a {what.name}" if isinstance(what, comfy.weight_adapter.WeightAdapterBase) else "a difference of weights"
    _, _, _, middle, dora, reshape = what.weights
    words = {"a LoRA with a middle part": middle, "a DoRA": dora, "a LoRA that enlarges the layer": reshape}
    return next((word for word, value in words.items() if value is not None), "")


def _as_pair(patches: list, key: str, layer: torch.nn.Module) -> Pair:
    """Plain LoRAs of the host as one on the whole layer, their strengths in B."""
    try:
        pieces = [piece_of(layer, what, rows, turned) for _, what, _, rows, turned in patches]
    except Unfit:
        raise ValueError(
            f"LoRAs below: the LoRA on {key} does not fit the layer; leave it out, or connect the model from before that node"
        ) from None
    strong = [piece._replace(up=piece.up * (piece.scale * patch[0]), scale=1.0) for piece, patch in zip(pieces, patches)]
    a, b, alpha = joined(layer, strong)
    return Pair(a, b, alpha)


def _added(one: Pair | None, other: Pair) -> Pair:
    if one is None:
        return other
    one, other = one.unscaled(), other.unscaled()
    return Pair(torch.cat([one.down, other.down]), torch.cat([one.up, other.up], 1), float(one.rank + other.rank))


def _plus(below: Pair | torch.Tensor | None, pair: Pair) -> Pair | torch.Tensor:
    return below + _matrix(pair) if isinstance(below, torch.Tensor) else _added(below, pair)


def _difference(model, key: str, patches: list) -> torch.Tensor:
    """What the patches change in a layer's weight, by the host's own rule: [out, in], float64."""
    weight = model.get_key_patches(key)[key][0][0]
    if not (is_plain(weight) and weight.is_floating_point()):
        raise ValueError(
            f"LoRAs below: {key} is quantised and carries what is no plain LoRA, whose change needs the weight itself; "
            "leave it out, or load the model unquantised"
        )
    before = weight.detach().to("cpu", torch.float64)
    after = comfy.lora.calculate_weight(patches, before.clone(), key, intermediate_dtype=torch.float64)
    if after.shape != before.shape:
        raise ValueError(
            f"LoRAs below: what lies on {key} enlarges the layer; leave it out, or connect the model from before that node"
        )
    return (after - before).flatten(1)


def _matrix(pair: Pair) -> torch.Tensor:
    return pair.up.double().flatten(1) @ pair.down.double().flatten(1) * (pair.alpha / pair.rank)


def _cut(sums: dict, shapes: dict, rank: int, count: int) -> Together:
    lora, lost, whole = {}, 0.0, 0.0
    for layer, change in sums.items():
        u, s, v = _singular(change)
        lost, whole = lost + float(s[rank:].square().sum()), whole + float(s.square().sum())
        if isinstance(change, Pair) and change.rank <= rank:
            lora[layer] = change
            continue
        kept = min(rank, len(s))
        root = s[:kept].sqrt()
        down, up = (root[:, None] * v[:kept]).float(), (u[:, :kept] * root).float()
        lora[layer] = Pair(down.reshape(kept, *shapes[layer][0][1:]), up.reshape(-1, kept, *shapes[layer][1][2:]), float(kept))
    return Together(lora, count, math.sqrt(lost / whole) if whole else 0.0)


def _singular(change: Pair | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """u [out, k], s [k], v [k, in] of a layer's change; of a LoRA without making the whole matrix."""
    if isinstance(change, torch.Tensor):
        return torch.linalg.svd(change, full_matrices=False)
    left, r1 = torch.linalg.qr(change.up.double().flatten(1) * (change.alpha / change.rank))
    right, r2 = torch.linalg.qr(change.down.double().flatten(1).T)
    u, s, v = torch.linalg.svd(r1 @ r2.T, full_matrices=False)
    return left @ u, s, v @ right.T
