"""The sampling settings with what they leave open as it is recommended for the policy."""

from __future__ import annotations

from dataclasses import replace

from ..policy.recommended import recommended
from ..policy.value import Policy
from ..recipes.settle import settled
from .settings import Sampling


def settled_sampling(policy: Policy, sampling: Sampling) -> Sampling:
    """For the policy's model and method; settings that leave nothing open stay what they are."""
    if not sampling.open:
        return sampling
    values = recommended(policy.model, policy.method).values("sampling")
    return replace(settled(sampling, sampling.open, values), open=())
