"""One process of several that share out a model's weights: a step's weights, and what the process held, go into a file.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python share_worker.py OUTPUT KIND:TRAINER ...
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "unit" / "trainers" / "policy"), str(HERE)]

import conftest  # noqa: E402, F401  makes the pack importable
import torch  # noqa: E402
import world  # noqa: E402
from posttrain.nodes.meeting import join_ranks  # noqa: E402
from posttrain.rewards.base import ranks  # noqa: E402
from posttrain.trainers.policy import network  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

SMOOTH = replace(world.RAW, epsilon=1e-3)  # AdamW's first step is smooth where a gradient is all but 0
shared_out, held = network.shared_out, []


@contextmanager
def looked_at(module, *arguments):
    """Notes which share of the weights lies in this process while the policy is open."""
    whole = sum(weight.numel() for weight in module.parameters())
    with shared_out(module, *arguments):
        own = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in module.parameters()]
        held.append(sum(weight.numel() for weight in own) / whole)
        yield


def shape(model) -> list[tuple]:
    """What the host's modules are and have hung on them."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_backward_hooks")
    return [(name, type(m).__name__, *(len(vars(m)[kind]) for kind in hooks)) for name, m in model.model.named_modules()]


def main(output: str, *wanted: str) -> None:
    torch.set_num_threads(1)
    join_ranks()
    ranks.share_weights()
    network.shared_out = looked_at
    kinds, found = {trainer.__name__: trainer for trainer in world.TRAINERS}, {}
    for name in wanted:
        kind, trainer = name.split(":")
        here = world.World(kind, card=False)
        bits, hung = here.bits(), shape(here.policy.model)
        policy = world.step(here, kinds[trainer], SMOOTH)
        found[f"{name}/weights"] = torch.cat([v.flatten() for _, v in sorted(policy.bank.items())])
        same = all(torch.equal(value, bits[key]) for key, value in here.bits().items())
        found[f"{name}/untouched"] = torch.tensor([same, shape(here.policy.model) == hung])
        found[f"{name}/held"] = torch.tensor(held)
        found[f"{name}/evaluations"] = torch.tensor([policy.metrics.get("update_evaluations", 0)])
        held.clear()
    ranks.leave()
    save_file(found, f"{output}.{os.environ.get('RANK', '0')}")


if __name__ == "__main__":
    main(*sys.argv[1:])
