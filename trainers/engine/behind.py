"""Rollouts that were sampled while the policy was trained, one iteration behind: who may learn from them, and as what."""

from __future__ import annotations

from dataclasses import replace

from ..policy.value import BEFORE, Policy
from ..sampling.rollout import Rollout

# how a method takes such a rollout: its likelihoods are those of the policy that sampled, so the ratio corrects for it; the
# policy that sampled is the old policy of the method; the images are data, whoever has made them
RATIO, OLD_POLICY, DATA = "ratio", "old policy", "data"


def check_behind(trainer: str, takes: str, rollout: Rollout) -> None:
    """ValueError where the rollout is one of those, and the trainer has no way to take it."""
    if rollout.behind is not None and not takes:
        raise ValueError(behind_words(trainer))


def behind_words(trainer: str) -> str:
    return (
        f"trainer: {trainer} learns rightly only from images of the policy as it is now, and these are drawn while the policy is "
        "trained, one iteration behind; set draw_images of Other Computers to 'after each update', or choose a trainer that "
        "takes them, such as Flow-GRPO, DDPO, DiffusionNFT, AWM or DGPO"
    )


def carried_on(new: Policy, policy: Policy, rollout: Rollout) -> Policy:
    """The policy ``new`` that a step on this rollout made of ``policy``, with the weights that sample for the next step."""
    anchors = {name: bank for name, bank in new.anchors.items() if name != BEFORE}
    if rollout.behind is not None:
        anchors[BEFORE] = policy.chosen("behaviour") or policy.bank
    return replace(new, anchors=anchors)
