"""Annealed guidance of DRaFT+ (NVIDIA NeMo-Aligner): sampling begins with the model as it was and ends with the tuned one.

    prediction_i = (1 - w_i) model(x_i) + w_i tuned(x_i)

The two predictions are mixed, not the weights, so each step costs both. The host mixes them: it takes the mean of conditionings
that hold at once, by their strengths, and lays hooks over the model for those that have some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.hooks

from .export import lora_state_dict
from .levels import sigmas_of
from .value import Policy

# by the share of the way, 0 to below 1
COURSES: dict[str, Callable[[float], float]] = {
    "even": lambda way: way,
    "squared": lambda way: way**2,
    "to the fourth": lambda way: way**4,
    "switched at 0.6": lambda way: float(way >= 0.6),
}
ENOUGH = 40  # halvings


def tuned_shares(course: str, steps: int) -> list[float]:
    """w of each step, 0 to 1. The last is 1: the official code decodes the tuned model's clean estimate there, which is where a
    step without a mixture ends."""
    return [COURSES[course](step / steps) for step in range(steps - 1)] + [1.0]


def annealed(policy: Policy, conditioning: list, steps: int, scheduler: str, course: str, name: str = "conditioning") -> list:
    """The conditioning as the host takes it, for a KSampler with this many steps of this scheduler and the user's own model.

    ValueError where it holds for a part of the sampling only, and names it.
    """
    if any({"start_percent", "end_percent"} & set(options) for _, options in conditioning):
        raise ValueError(
            f"{name}: it holds for a part of the sampling already, and annealed guidance deals out the parts itself; "
            "take away the node that sets its time range"
        )
    sampling = policy.model.get_model_object("model_sampling")
    hooks = comfy.hooks.create_hook_lora(lora_state_dict(policy), 1.0, 0.0)
    parts: list = []
    sigmas = sigmas_of(sampling, scheduler, steps)
    ranges = time_ranges(sampling.percent_to_sigma, sigmas[:-1].tolist())
    for share, (start, end) in zip(tuned_shares(course, len(ranges)), ranges):
        parts += _part(conditioning, 1 - share, start, end, None) + _part(conditioning, share, start, end, hooks)
    return parts


def _part(conditioning: list, share: float, start: float, end: float, hooks) -> list:
    """Both models' part in one step; none at a share of 0."""
    if not share:
        return []
    timed = [
        [value, {**options, "start_percent": start, "end_percent": end, "strength": share * options.get("strength", 1.0)}]
        for value, options in conditioning
    ]
    return comfy.hooks.set_hooks_for_conditioning(timed, hooks)


def time_ranges(percent_to_sigma: Callable[[float], float], sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """(start, end) in the host's percents for each of the falling noise levels, one of which lies in each."""
    middles = [(high + low) / 2 for high, low in zip(sigmas, sigmas[1:])]
    cuts = [0.0, *(_percent_of(percent_to_sigma, middle) for middle in middles), 1.0]
    return list(zip(cuts, cuts[1:]))


def _percent_of(percent_to_sigma: Callable[[float], float], sigma: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(ENOUGH):
        middle = (low + high) / 2
        low, high = (middle, high) if float(percent_to_sigma(middle)) > sigma else (low, middle)
    return high
