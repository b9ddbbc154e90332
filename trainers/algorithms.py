"""The table of trainers: settings -> the function that makes one train step of them."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .advantages import Advantages
from .forward_process import AWM, DGPO, NFT, RWR, train_awm, train_dgpo, train_nft, train_rwr
from .policy.value import Policy
from .policy.weights import outside_inference
from .policy_gradient import DDPO, DPOK, FlowGRPO, train_ddpo, train_dpok, train_flow_grpo
from .rollout import Rollout
from .update import SKIPPED, Optimizer

ALGORITHMS: dict[type, Callable] = {
    FlowGRPO: train_flow_grpo,
    DDPO: train_ddpo,
    DPOK: train_dpok,
    NFT: train_nft,
    AWM: train_awm,
    DGPO: train_dgpo,
    RWR: train_rwr,
}


@dataclass(frozen=True)
class Trainer:
    """An algorithm with its settings (a key of ALGORITHMS by type) and the optimizer's."""

    settings: object
    optimizer: Optimizer


@torch.inference_mode(False)
@torch.no_grad()
def train_step(policy: Policy, rollout: Rollout, advantages: Advantages, trainer: Trainer, *,
               progress: Callable[[int, int], None] | None = None) -> Policy:
    """The policy after one train step; the one that came in is unchanged.

    Its metrics hold the rollout's, the advantages' and the update's numbers; its memory what the advantage rule
    carries on. With nothing to learn from (all scores equal or failed) the weights stay and the metrics say so.
    """
    # what the host's nodes made along the way may be inference tensors
    rollout, advantages = outside_inference(rollout), outside_inference(advantages)
    numbers = dict(advantages.stats) | {"rollout_evaluations": rollout.evaluations}
    if bool(advantages.weight.any()):
        new = ALGORITHMS[type(trainer.settings)](policy, rollout, advantages, trainer.settings, trainer.optimizer,
                                                 progress)
    else:
        # scores that are merely equal are no fault; scores that all failed are, and are counted as one
        fault = int(advantages.stats["failed"] == len(advantages.values))
        in_a_row = int(policy.metrics.get(SKIPPED, 0)) + fault
        new = replace(policy, metrics={"updates": 0, "skipped_updates": fault, SKIPPED: in_a_row})
    memory = policy.memory if advantages.memory is None else {**policy.memory, "rewards": advantages.memory}
    return replace(new, metrics=numbers | new.metrics, memory=memory, iteration=policy.iteration + 1)
