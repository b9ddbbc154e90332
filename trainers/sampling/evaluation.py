"""How good a policy is on prompts that it may never have seen, beside the model that it started from."""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

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
    """scores, images: of the trained policy, B of them; base, base_images: the same prompts and noise without it.
    evaluations: network calls on a sample that each half took."""

    scores: Scores
    images: torch.Tensor
    base: Scores | None = None
    base_images: torch.Tensor | None = None
    evaluations: int = 0
    __repr__ = brief

    def summary(self) -> str:
        """One sentence with means, standard errors and, where the base was sampled too, the paired difference."""
        text = f"score {_mean(self.scores.values)} on {len(self.scores.values)} images"
        if self.base is None:
            return text
        return f"{text}, before training {_mean(self.base.values)}, gain {_mean(self.scores.values - self.base.values)}"


@dataclass(frozen=True)
class HeldOut:
    """Prompts on which a training is measured while it runs: always the same, from the same noise.

    every: iterations between two measurements. hand_out: which policy the run gives in the end, one of
    ``run.held_out.HAND_OUT``. progress: called with the policy's model before each measurement, gives what ``evaluate`` reports to.
    """

    prompts: PromptSet
    vae: Any
    reward: Any
    sampling: Sampling
    every: int
    hand_out: str
    progress: Callable[[Any], Callable] | None = None
    __repr__ = brief

    @property
    def identity(self) -> str:
        """Changes with whatever changes the numbers, so that those of other prompts or rewards are not compared."""
        texts = [(prompt.text, prompt.spec) for prompt in self.prompts.prompts]
        facts = (texts, asdict(self.sampling), asdict(self.reward.info))
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def measure(self, policy: Policy, compare: bool) -> Evaluation:
        """compare: the model before training, too."""
        progress = None if self.progress is None else self.progress(policy.model)
        return evaluate(policy, self.prompts, self.vae, self.reward, self.sampling, compare, progress)


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
    base, base_images = found[1] if compare else (None, None)
    return Evaluation(*found[0], base, base_images, halves[0].evaluations)
