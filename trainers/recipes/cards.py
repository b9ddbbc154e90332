"""How a model of some size is trained on a card of some size: what is given up from the start, so that no try is lost.

Reckoned, not measured on cards: what weights leave free is for the activations. A run for which it does not suffice gives up more
by itself.
"""

from __future__ import annotations

from typing import NamedTuple

AS_SET = "as set"
CARDS = {f"{size} GB": size * 2**30 for size in (8, 12, 16, 24, 48)}
CHOICES = (AS_SET, *CARDS)


class Row(NamedTuple):
    """share: of the card that the weights would take, at most; recompute (share of the blocks), at_once (images through the
    model, 0: as asked), in_ram (share of the weights): what is given up then; why: in words."""

    share: float
    recompute: float
    at_once: int
    in_ram: float
    why: str


ROWS = (
    Row(0.25, 0.0, 0, 0.0, "three quarters of the card are free: nothing needs to be given up"),
    Row(0.5, 1.0, 4, 0.0, "half of the card is free: recomputed, a block's activations at a time are held, of four images"),
    Row(0.8, 1.0, 1, 0.0, "a fifth of the card or more is free: one image at once"),
    Row(1.25, 1.0, 1, 0.5, "the weights alone fill the card: half of them are streamed, so that half of it is free"),
    Row(float("inf"), 1.0, 1, 1.0, "the weights are larger than the card: all of them are streamed"),
)


def row_for(card: str, weights: int) -> Row | None:
    """card: one of CHOICES; weights: bytes of the model's. None for AS_SET. ValueError for another word."""
    if card == AS_SET:
        return None
    if card not in CARDS:
        raise ValueError(f"card: unknown {card!r}; use one of {', '.join(CHOICES)}")
    return next(row for row in ROWS if weights <= row.share * CARDS[card])
