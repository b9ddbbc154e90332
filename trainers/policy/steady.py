"""Whether what nodes have put on a MODEL gives the same answer to the same question.

A train step asks again what was asked while sampling, in another order. A node that draws random numbers (token merging)
or remembers earlier steps (momentum, caches) answers otherwise then, and a first ratio that is not 1 would train on that.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable

import torch

SAME = 1e-3  # of the largest value; chance and memory change far more, the same sums on a GPU far less

_seen: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@torch.no_grad()
def check_steady(model, ask: Callable, x: torch.Tensor, sigma: torch.Tensor, guidance: float,
                 schedule: torch.Tensor | None) -> None:
    """Asks two questions twice, the first time that this MODEL gets latents of this shape at this guidance scale.

    ask(x, sigma) -> [B, C, H, W]. ValueError where an answer differs from the one before.
    """
    key, known = (guidance, tuple(x.shape)), _seen.setdefault(model, set())
    if key in known:
        return
    other = _another_level(sigma, schedule)
    first, second = ask(x, sigma), ask(x, other)
    if not (_same(second, ask(x, other)) and _same(first, ask(x, sigma))):
        raise ValueError("model: a node on it answers the same question differently each time, by chance (as token merging "
                         "does) or from memory of earlier steps (momentum, caches), so a train step could not know what was "
                         "sampled; connect the model from before that node")
    known.add(key)


def _another_level(sigma: torch.Tensor, schedule: torch.Tensor | None) -> torch.Tensor:
    levels = [] if schedule is None else [float(s) for s in schedule if 0 < float(s) < float(sigma.min())]
    return torch.full_like(sigma, levels[0]) if levels else sigma / 2


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.equal(a, b) or (a - b).abs().max() <= SAME * a.abs().max())
