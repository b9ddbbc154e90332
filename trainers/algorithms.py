"""The table of trainers: settings -> the function that makes one train step of them."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .feedback import Feedback, check_fits, teaches
from .forward_process import AWM, DGPO, NFT, RWR, train_awm, train_dgpo, train_nft, train_rwr
from .pairs import DiffusionDPO, MaPO, train_dpo, train_mapo
from .policy.value import Policy
from .policy.weights import outside_inference
from .policy_gradient import DDPO, DPOK, FlowGRPO, train_ddpo, train_dpok, train_flow_grpo
from .rollout import Rollout
from .step_pairs import D3PO, SPO, train_d3po, train_spo
from .thumbs import KTO, train_kto
from .update import SKIPPED, Optimizer

ALGORITHMS: dict[type, Callable] = {
    FlowGRPO: train_flow_grpo,
    DDPO: train_ddpo,
    DPOK: train_dpok,
    NFT: train_nft,
    AWM: train_awm,
    DGPO: train_dgpo,
    RWR: train_rwr,
    DiffusionDPO: train_dpo,
    MaPO: train_mapo,
    KTO: train_kto,
    D3PO: train_d3po,
    SPO: train_spo,
}


@dataclass(frozen=True)
class Trainer:
    """An algorithm with its settings (a key of ALGORITHMS by type) and the optimizer's."""

    settings: object
    optimizer: Optimizer


@torch.inference_mode(False)
@torch.no_grad()
def train_step(policy: Policy, rollout: Rollout, feedback: Feedback, trainer: Trainer, *,
               progress: Callable[[int, int], None] | None = None) -> Policy:
    """The policy after one train step; the one that came in is unchanged.

    Its metrics hold the rollout's, the feedback's and the update's numbers; its memory what the advantage rule
    carries on. With nothing to learn from (all scores equal or failed) the weights stay and the metrics say so.
    ValueError where the trainer learns from another kind of feedback.
    """
    # what the host's nodes made along the way may be inference tensors
    rollout, feedback = outside_inference(rollout), outside_inference(feedback)
    check_fits(trainer.settings, feedback, rollout)
    numbers = dict(feedback.stats) | {"rollout_evaluations": rollout.evaluations}
    if teaches(feedback):
        new = ALGORITHMS[type(trainer.settings)](policy, rollout, feedback, trainer.settings, trainer.optimizer, progress)
    else:
        # scores that are merely equal are no fault; scores that all failed are, and are counted as one
        fault = int(feedback.stats["failed"] == len(rollout.index))
        in_a_row = int(policy.metrics.get(SKIPPED, 0)) + fault
        new = replace(policy, metrics={"updates": 0, "skipped_updates": fault, SKIPPED: in_a_row})
    remembered = getattr(feedback, "memory", None)
    memory = policy.memory if remembered is None else {**policy.memory, "rewards": remembered}
    return replace(new, metrics=numbers | new.metrics, memory=memory, iteration=policy.iteration + 1)
