"""A person's own taste as a reward: the head of person/taste.py on the image tower of a CLIP or SigLIP network. Unbounded.

The file is a head as aesthetic.py reads one: weight [1, D] and bias [1] on the embedding divided by its length.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..base.files import written_whole
from ..base.reward import RewardInfo
from .aesthetic import AestheticReward
from .holder import Holder

TOWERS = {"CLIP": "LAION v2", "SigLIP": "v2.5 (SigLIP)"}  # whose tower is looked for, and how it wants its pixels


class TasteReward(AestheticReward):
    """name: whose taste; tower: a key of TOWERS; head: a file that ``save`` has written.

    The score is the logit of "you like it".
    """

    def __init__(self, name: str, tower: str, holder: Holder, head: Path, batch_size: int = 16):
        super().__init__(TOWERS[tower], holder, head, batch_size)
        self.info = RewardInfo(
            f"taste: {name}", None, None, False, True, "How much you would like it, learned from your votes."
        )


def save(weight: Tensor, bias: float, path: Path, told: Mapping[str, str]) -> None:
    """Writes a head, whole or not at all. weight [D]; told: what the file says of itself."""
    from safetensors.torch import save_file

    tensors = {"weight": weight.float()[None].contiguous(), "bias": torch.tensor([bias], dtype=torch.float32)}
    with written_whole(path) as beside:
        save_file(tensors, beside, dict(told))
