"""One of several processes that share the demo's Flow-GRPO, for the benchmarks of what sharing takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shared:
    """trainer: with its settings; ranks: the pack's module of that name."""

    world: Any
    judge: Any
    trainer: Any
    ranks: Any

    def iteration(self, policy: Any, number: int) -> Any:
        """The policy after it."""
        from tools import pack

        made, train = self.world, pack.module("nodes.loop.train")
        return train.one_iteration(
            policy, made.prompts, made.vae, made.sampling, self.judge, self.trainer, "group mean, global std", number
        )[0]


def joined(rank: int, count: int, port: int, updates: int = 1, **sampling: Any) -> Shared:
    """This process, which has met the others. updates: of a rollout."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from tools import pack

    from ._world import world

    made = world(**sampling)
    pack.module("nodes.meeting").join_ranks()
    optimizer = pack.module("trainers.engine.update").Optimizer(updates=updates)
    trainer = pack.module("trainers.methods").Trainer(pack.module("trainers.flow_grpo").FlowGRPO(), optimizer)
    return Shared(made, pack.module("toy.verifier").ToyVerifier(), trainer, pack.module("rewards.base.ranks"))
