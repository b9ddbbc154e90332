"""Settings of a method with which it has something to do in a test of any method."""

from __future__ import annotations

from dataclasses import replace

from posttrain.trainers.diffusion_opd import DiffusionOPD, Teacher
from posttrain.trainers.policy.value import Policy


def usual(kind: type, policy: Policy, **more: object):
    """The method's defaults; where it needs teachers, this policy turned round."""
    if kind is DiffusionOPD:
        return kind(teachers=(turned_round(policy),), **more)
    return kind(**more)


def turned_round(policy: Policy, **more: object) -> Teacher:
    other = {key: -value if key.endswith("lora_B") else value for key, value in policy.bank.items()}
    return Teacher("the policy turned round", policy=replace(policy, bank=other, ema=None), **more)
