"""Which samples go through the network together in an update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from ..sampling.rollout import Rollout

Cut = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def dealt(
    order: torch.Tensor,
    updates: int,
    cut: int | Cut,
    rollout: Rollout,
    of: torch.Tensor | None = None,
) -> list[list[torch.Tensor]]:
    """Micro-batches of each update. order: [N] numbers of what is learned from, in the order in which it is dealt out; cut: how
    many go together, or what cuts them; of: [.] the rollout's row that a number stands for, None where it is the number itself.

    Within an update, whose gradient is a sum, those follow each other whose texts have the same sizes: others need a call of
    the network each (Lumina 2, Z-Image, Qwen-Image and Chroma know a text of any length).
    """
    together = partial(torch.Tensor.split, split_size=cut) if isinstance(cut, int) else cut
    bundles = together(order)
    parts = [list(bundles[k::updates]) for k in range(min(updates, len(bundles)))]
    return [_side_by_side(part, together, rollout, of) for part in parts]


def _side_by_side(part: list[torch.Tensor], cut: Cut, rollout: Rollout, of: torch.Tensor | None) -> list[torch.Tensor]:
    numbers = torch.cat(part)
    places = rollout.prompts.side_by_side(rollout.index[numbers if of is None else of[numbers]].tolist())
    return part if places is None else list(cut(numbers[places]))
