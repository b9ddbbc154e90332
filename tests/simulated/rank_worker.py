"""One process of several that share a training step of every trainer: the step's gradient, weights and numbers go into a file.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python rank_worker.py OUTPUT [TRAINER ...]
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "unit" / "trainers" / "policy"), str(HERE)]

import conftest  # noqa: E402, F401  makes the pack importable
import torch  # noqa: E402
import world  # noqa: E402
from posttrain.nodes.meeting import join_ranks  # noqa: E402
from posttrain.rewards.base import ranks  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

WATCHED = ("loss", "grad_norm", "reward_mean")
# AdamW's first step is the gradient's sign, which rounding decides where a gradient is all but 0; this one is smooth there
SMOOTH = replace(world.RAW, epsilon=1e-3)


def main(output: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    join_ranks()
    found: dict[str, torch.Tensor] = {}
    for trainer in world.TRAINERS:
        if names and trainer.__name__ not in names:
            continue
        policy = world.step(world.World("sd3", card=False), trainer, SMOOTH)
        found[f"{trainer.__name__}/gradient"] = world.gradient(policy)
        found[f"{trainer.__name__}/weights"] = torch.cat([v.flatten() for _, v in sorted(policy.bank.items())])
        found[f"{trainer.__name__}/numbers"] = torch.tensor([float(policy.metrics.get(name, 0.0)) for name in WATCHED])
    ranks.leave()
    save_file(found, f"{output}.{os.environ.get('RANK', '0')}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
