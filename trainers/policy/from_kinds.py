"""A layer of a LoHa, LoKr or OFT file, as the host's trainable adapter of that kind holds it."""

from __future__ import annotations

import math
from typing import Any

import torch

from .kinds import Member, member_of
from .layers import lora_shapes

NAMES = {"loha": "LoHa", "lokr": "LoKr", "oft": "OFT"}
OTHER_SIZE = "has another size"
DORA = "is a DoRA; a training begins from a LoRA or its relatives without its norms"


class Unfit(Exception):
    """Why an entry of the file cannot be trained in its layer, in words that follow the layer's name."""


def held(layer: torch.nn.Module, adapter: Any, whole: bool) -> tuple[Member, dict[str, torch.Tensor]]:
    """The member, and part -> float32. adapter: the host's, of a kind in NAMES; whole: it is for a whole layer. Unfit says why it
    cannot be trained."""
    kind, (dora, *_) = NAMES[adapter.name], reversed(adapter.weights)
    if dora is not None:
        raise Unfit(DORA)
    if not whole:
        raise Unfit(f"is a {kind} for a part of a layer, and only LoRAs can be joined")
    read: dict[str, Any] = {"LoHa": _loha, "LoKr": _lokr, "OFT": _oft}
    member, weights = read[kind](layer, *adapter.weights[:-1])
    if not math.isfinite(member.alpha):
        raise Unfit(f"has alpha {member.alpha:g}")
    return member, {part: weight.float() for part, weight in weights.items()}


def _sizes(layer: torch.nn.Module) -> tuple[int, int]:
    a, b = lora_shapes(layer, 1)
    return b[0], math.prod(a[1:])


def _loha(layer, w1a, w1b, alpha, w2a, w2b, t1, t2):
    if t1 is not None or t2 is not None:
        raise Unfit("is a LoHa of a convolution in three parts, which is not trained")
    (out, into), rank = _sizes(layer), len(w1b)
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in ((w1a, w1b), (w2a, w2b))]
    if any(a.shape != (out, len(b)) or b.shape[1] != into for a, b in pairs):
        raise Unfit(OTHER_SIZE)
    parts = dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), (weight for pair in pairs for weight in pair)))
    return Member("LoHa", rank, float(rank if alpha is None else alpha), tuple(parts)), parts


def _lokr(layer, w1, w2, alpha, w1a, w1b, w2a, w2b, t2):
    """Factors that are products of two are multiplied out: the same numbers, and more of them to train."""
    if t2 is not None:
        raise Unfit("is a LoKr of a convolution in three parts, which is not trained")
    rank = len(w2b) if w2 is None else len(w1b) if w1 is None else None
    first = (w1a.float() @ w1b.float() if w1 is None else w1.float()).flatten(1)
    second = (w2a.float() @ w2b.float().flatten(1) if w2 is None else w2.float()).flatten(1)
    if rank is not None and alpha is not None:
        second = second * (float(alpha) / rank)
    if (first.shape[0] * second.shape[0], first.shape[1] * second.shape[1]) != _sizes(layer):
        raise Unfit(OTHER_SIZE)
    parts = {"lokr_w1": first, "lokr_w2": second}
    return Member("LoKr", max(first.shape), 1.0, tuple(parts)), parts


def _oft(layer, blocks, rescale, alpha):
    if rescale is not None:
        raise Unfit("is an OFT with a rescale, which ComfyUI's own loader leaves out")
    member = member_of(layer, "OFT", blocks.shape[1], 0.0 if alpha is None else float(alpha))
    if blocks.shape[0] * blocks.shape[1] != _sizes(layer)[0]:
        raise Unfit(OTHER_SIZE)
    if member is None or not _blocks_alike(layer, blocks):
        raise Unfit("is an OFT in blocks of a size that ComfyUI's trainable adapter does not have")
    return member, {"oft_blocks": blocks}


def _blocks_alike(layer: torch.nn.Module, blocks: torch.Tensor) -> bool:
    """Whether the host makes blocks of this size when it is asked for them."""
    from comfy.weight_adapter.base import factorization

    return factorization(_sizes(layer)[0], blocks.shape[1])[0] == blocks.shape[1]
