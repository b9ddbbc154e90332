"""How good a policy is on prompts that it may never have seen, beside the model that it started from."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ...rewards.base.reward import Scores, score
from ...rewards.base.words import brief
from ..policy.value import Policy
from ..prompts import PromptSet
from .recommended import settled_sampling
from .rollout import Rollout, rollout
from .settings import Sampling


@dataclass(frozen=True)
class Evaluation:
    """scores, images: of the trained policy, B of them; base, base_images: the same prompts and noise without it."""

    scores: Scores
    images: torch.Tensor
    base: Scores | None = None
    base_images: torch.Tensor | None = None
    __repr__ = brief

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
    """Scores ``images_per_prompt`` images of every prompt, sampled without random steps; compare: the base model too.

    Both are scored at once, so that a reward that compares images, or a person, sees them side by side and mixed.
    """
    quiet = replace(settled_sampling(policy, sampling), transition="deterministic", prompts_per_iteration=len(prompts))

    def half(weights: str, part: int) -> Rollout:
        def report(done, total, x0):
            progress(part * total + done, total * (1 + compare), x0)
        return rollout(policy, prompts, vae, quiet, 0, weights=weights, progress=report if progress else None)

    halves = [half(weights, part) for part, weights in enumerate(("trained", "reference")[:1 + compare])]
    scores = score(reward, torch.cat([made.images for made in halves]),
                   [prompt for made in halves for prompt in made.prompts_of_samples()],
                   torch.cat([made.index for made in halves]))
    count = len(halves[0].images)
    found = [(scores.part(slice(i * count, (i + 1) * count)), made.images) for i, made in enumerate(halves)]
    return Evaluation(*found[0], *(found[1] if compare else ()))
