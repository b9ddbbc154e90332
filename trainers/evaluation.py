"""How good a policy is on prompts that it may never have seen, beside the model that it started from."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..rewards.base import Scores, score
from .policy.value import Policy
from .prompts import PromptSet
from .rollout import rollout
from .sampling import Sampling


@dataclass(frozen=True)
class Evaluation:
    """scores, images: of the trained policy, B of them; base, base_images: the same prompts and noise without it."""

    scores: Scores
    images: torch.Tensor
    base: Scores | None = None
    base_images: torch.Tensor | None = None

    def summary(self) -> str:
        """One sentence with means, standard errors and, where the base was sampled too, the paired difference."""
        text = f"score {_mean(self.scores.values)} on {len(self.scores.values)} images"
        if self.base is None:
            return text
        return f"{text}, before training {_mean(self.base.values)}, gain {_mean(self.scores.values - self.base.values)}"


def _mean(values: torch.Tensor) -> str:
    known = values[values.isfinite()]
    error = float(known.std()) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return f"{float(known.mean()):.3f} ± {error:.3f}" if len(known) else "unknown"


def evaluate(policy: Policy, prompts: PromptSet, vae, reward, sampling: Sampling, compare: bool = True,
             progress: Callable | None = None) -> Evaluation:
    """Scores ``images_per_prompt`` images of every prompt, sampled without random steps; compare: the base model too."""
    quiet = replace(sampling, transition="deterministic", prompts_per_iteration=len(prompts))

    def half(weights: str, part: int):
        def report(done, total, x0):
            progress(part * total + done, total * (1 + compare), x0)
        made = rollout(policy, prompts, vae, quiet, 0, weights=weights, progress=report if progress else None)
        return score(reward, made.images, made.prompts_of_samples(), made.index), made.images

    scores, images = half("trained", 0)
    return Evaluation(scores, images, *(half("reference", 1) if compare else ()))
