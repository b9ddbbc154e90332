"""The matrices that a file has for a layer, or for slices of it, as one LoRA of the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .from_kinds import DORA, OTHER_SIZE, Unfit
from .layers import kind_of, lora_shapes

OTHER_KINDS = {"glora": "GLoRA", "boft": "BOFT"}


class Piece(NamedTuple):
    """A pair of matrices for a layer or, by offset (dimension, start, length), for a slice of it. up: [out, r]; down: [r, in]."""

    up: torch.Tensor
    down: torch.Tensor
    scale: float
    offset: tuple[int, int, int] | None


def piece_of(layer: torch.nn.Module, adapter: Any, offset: tuple[int, int, int] | None, function: Callable | None) -> Piece:
    """adapter: the host's; offset, function: the slice that it is for, and what the host does to its rows. Unfit says why it
    is no LoRA of the layer."""
    if adapter.name != "lora":
        raise Unfit(f"is a {OTHER_KINDS.get(adapter.name, adapter.name)}, which the host cannot train either")
    up, down, alpha, middle, dora, reshaped = adapter.weights
    if dora is not None or reshaped is not None:
        raise Unfit(DORA if dora is not None else "changes the size of its layer")
    if kind_of(layer) is None:
        raise Unfit("has matrices for a norm")
    up, down = up.float().flatten(1), down.float()
    if middle is not None:  # of a convolution in three parts
        down = torch.einsum("mn...,ni->mi...", middle.float(), down.flatten(1))
    down, rank = down.flatten(1), len(down)
    a, b = lora_shapes(layer, 1)
    sizes = [b[0], a[1]]
    if offset is not None:
        dim, start, length = offset
        if start + length > sizes[dim]:
            raise Unfit(OTHER_SIZE)
        sizes[dim] = length
    if up.shape != (sizes[0], rank) or down.shape[1] != sizes[1] * (down.new_empty(a[2:]).numel() if a[2:] else 1):
        raise Unfit(OTHER_SIZE)
    if function is not None:
        up = _of_rows(function, up)
    return Piece(up, down, 1.0 if alpha is None else float(alpha) / rank, offset)


def _of_rows(function: Callable, up: torch.Tensor) -> torch.Tensor:
    """What the host does to up @ down, done to up."""
    probe = torch.eye(up.shape[1], device=up.device)[:, :1].expand(-1, 2)
    if not torch.allclose(function(up @ probe), function(up) @ probe):
        raise Unfit("is changed by the host in a way that a LoRA cannot follow")
    return function(up)


def joined(layer: torch.nn.Module, pieces: list[Piece]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A, B and alpha of one LoRA that is the sum of the pieces: their ranks added, each slice in its place."""
    rank, scale = sum(len(piece.down) for piece in pieces), pieces[0].scale
    a, b = (torch.zeros(shape) for shape in lora_shapes(layer, rank))
    first = 0
    for piece in pieces:
        rows = slice(first, first + len(piece.down))
        into, out = a[rows], b[:, rows]
        if piece.offset is not None:
            dim, start, length = piece.offset
            into, out = (into, out.narrow(0, start, length)) if dim == 0 else (into.narrow(1, start, length), out)
        into.copy_(piece.down.reshape(into.shape))
        out.copy_((piece.up if piece.scale == scale else piece.up * (piece.scale / scale)).reshape(out.shape))
        first = rows.stop
    return a, b, scale * rank
