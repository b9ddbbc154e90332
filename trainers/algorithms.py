"""The table of trainers: settings -> the function that makes one train step of them."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .adversarial import ADD, train_add
from .backprop import AlignProp, DRaFT, DRTune, ReFL, train_alignprop, train_draft, train_drtune, train_refl
from .direct_align import SRPO, train_srpo
from .distillation import LCM, finite_latents, train_lcm
from .feedback import Feedback, check_fits, needs_feedback, teaches
from .forward_process import AWM, DGPO, FOLLOWER, NFT, OLD, RWR, train_awm, train_dgpo, train_nft, train_rwr
from .limits import check_limits
from .pairs import DiffusionDPO, MaPO, train_dpo, train_mapo
from .policy.value import Policy
from .policy.weights import outside_inference
from .policy_gradient import DDPO, DPOK, FlowGRPO, train_ddpo, train_dpok, train_flow_grpo
from .prompts import PromptSet
from .reward_walk import Course
from .rollout import Progress, Rollout
from .sampling import Sampling
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
    LCM: train_lcm,
    ADD: train_add,
}
# these make their images inside the step and follow the reward's gradient
BACKPROP: dict[type, Callable] = {
    DRaFT: train_draft,
    AlignProp: train_alignprop,
    ReFL: train_refl,
    DRTune: train_drtune,
    SRPO: train_srpo,
}


@dataclass(frozen=True)
class Trainer:
    """An algorithm with its settings (a key of ALGORITHMS or BACKPROP by type) and the optimizer's."""

    settings: object
    optimizer: Optimizer


@torch.inference_mode(False)
@torch.no_grad()
def train_step(policy: Policy, rollout: Rollout, feedback: Feedback | None, trainer: Trainer, *,
               progress: Callable[[int, int], None] | None = None) -> Policy:
    """The policy after one train step; the one that came in is unchanged.

    Its metrics hold the rollout's, the feedback's and the update's numbers; its memory what the advantage rule
    carries on. With nothing to learn from (all scores equal or failed) the weights stay and the metrics say so; a
    trainer that needs no feedback (distillation) only reports what it is given. ValueError where the trainer learns from
    another kind of feedback.
    """
    _check_trainer(trainer, ALGORITHMS)
    # what the host's nodes made along the way may be inference tensors
    rollout, feedback = outside_inference(rollout), outside_inference(feedback)
    check_fits(trainer.settings, feedback, rollout)
    stats = {"failed": float((~finite_latents(rollout)).sum())} if feedback is None else feedback.stats
    numbers = stats | {"rollout_evaluations": rollout.evaluations}
    if not needs_feedback(trainer.settings) or teaches(feedback):
        new = ALGORITHMS[type(trainer.settings)](policy, rollout, feedback, trainer.settings, trainer.optimizer, progress)
    else:
        # scores that are merely equal are no fault; scores that all failed are, and are counted as one
        fault = int(feedback.stats["failed"] == len(rollout.index))
        in_a_row = int(policy.metrics.get(SKIPPED, 0)) + fault
        new = replace(policy, metrics={"updates": 0, "skipped_updates": fault, SKIPPED: in_a_row})
    remembered = getattr(feedback, "memory", None)
    memory = policy.memory if remembered is None else {**policy.memory, "rewards": remembered}
    return replace(_without_strays(new, trainer), metrics=numbers | new.metrics, memory=memory,
                   iteration=policy.iteration + 1)


@torch.inference_mode(False)
@torch.no_grad()
def backprop_step(policy: Policy, prompts: PromptSet, vae, reward, sampling: Sampling, trainer: Trainer,
                  iteration: int = 0, *, data: Rollout | None = None,
                  progress: Progress | None = None) -> tuple[Policy, torch.Tensor]:
    """The policy after one step through the reward, and the step's images [B, H, W, 3] in [0, 1].

    vae: the user's; reward: a differentiable one; sampling, iteration, progress: as in ``rollout``; data: finished images
    for ReFL's pretraining term. The policy that came in is unchanged. ValueError names the input that does not fit.
    """
    _check_trainer(trainer, BACKPROP)
    course = Course(policy, prompts, vae, reward, sampling, iteration, data=outside_inference(data), progress=progress)
    new = BACKPROP[type(trainer.settings)](policy, course, trainer.settings, trainer.optimizer)
    new = replace(_without_strays(new, trainer), metrics=course.stats() | new.metrics, iteration=policy.iteration + 1)
    return new, course.images


def _without_strays(policy: Policy, trainer: Trainer) -> Policy:
    """Copies of the weights that follow them while their own trainer trains would stay where they are after another one:
    the policy that samples for DiffusionNFT, the one that AWM is held near."""
    others = {name for kind, name in ((NFT, OLD), (AWM, FOLLOWER)) if not isinstance(trainer.settings, kind)}
    return replace(policy, anchors={name: bank for name, bank in policy.anchors.items() if name not in others})


def goes_through_reward(trainer: Trainer) -> bool:
    """Whether ``backprop_step`` serves this trainer, not ``train_step``."""
    return type(trainer.settings) in BACKPROP


def _check_trainer(trainer: Trainer, table: dict[type, Callable]) -> None:
    """ValueError where another train step serves this trainer, or a setting of it is out of range."""
    name = type(trainer.settings).__name__
    if type(trainer.settings) in table:
        check_limits(trainer.settings)
        check_limits(trainer.optimizer)
        return
    if table is ALGORITHMS:
        raise ValueError(f"trainer: {name} makes its own images and follows the reward's gradient, so it needs no rollout; "
                         "use the node Train Step (through the reward) in place of Rollout, Score, Advantages and Train Step")
    raise ValueError(f"trainer: {name} learns from a rollout and feedback on it, not through the reward; use Rollout, "
                     "Score, Advantages and Train Step with it, or connect DRaFT, AlignProp, ReFL, DRTune or SRPO here")
