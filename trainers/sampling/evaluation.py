"""How good a policy is on prompts that it may never have seen, beside the model that it started from."""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ...rewards.base.distances import CERTAIN, Distance
from ...rewards.base.reward import Prompt, Scores, as_reward, score
from ...rewards.base.words import brief
from ...rewards.learned.embedding import Embedding
from ..policy.bank import Recipe
from ..policy.value import Policy, create_policy
from ..prompts import PromptSet
from .recommended import settled_sampling
from .rollout import Rollout, rollout
from .settings import Sampling

OTHER_NOISE = 1  # the iteration whose noise the pictures have that others are compared with
HACKED = ("Reward up, FID up: the pictures have moved away from what they are compared with while the reward rose, a sign that "
          "the reward is being gamed. Look at them, and measure with a reward that was not trained on.")


@dataclass(frozen=True)
class Apart:
    """How far the policy's images lie from other pictures. images, pictures: how many of either; of_folder: whether the latter
    are the user's, and not the model's before training."""

    distances: tuple[Distance, ...]
    images: int
    pictures: int
    of_folder: bool
    __repr__ = brief

    def lines(self) -> list[str]:
        whose = (f"{self.images} images to {self.pictures} pictures of the folder" if self.of_folder
                 else f"{self.images} images to {self.pictures} others of the model before training")  # fmt: skip
        return [*(each.words() for each in self.distances), whose]

    @property
    def rising_fid(self) -> Distance | None:
        return next((each for each in self.distances if each.name.startswith("FID") and each.rises), None)


@dataclass(frozen=True)
class Known:
    """Features that stay the same from one evaluation to the next: of what is compared with [M, D], of the images before
    training [N, D]."""

    reference: torch.Tensor
    before: torch.Tensor | None
    __repr__ = brief


@dataclass(frozen=True)
class Evaluation:
    """scores, images: of the trained policy, B of them; base, base_images: the same prompts and noise without it.
    evaluations: network calls on a sample that each half took. apart, known: where distances were asked for. prompts: of each
    image."""

    scores: Scores
    images: torch.Tensor
    base: Scores | None = None
    base_images: torch.Tensor | None = None
    evaluations: int = 0
    apart: Apart | None = None
    known: Known | None = None
    prompts: Sequence[Prompt] = ()
    __repr__ = brief

    def summary(self) -> str:
        """A sentence with means, standard errors and, where the base was sampled too, the paired difference; then distances."""
        scored, text = self.scores.values, f"score {_mean(self.scores.values)} on {len(self.scores.values)} images"
        if self.base is not None:
            before, gain = _mean(self.base.values), _mean(scored - self.base.values)
            text = f"score {_mean(scored)} on {len(scored)} images, before training {before}, gain {gain}"
        return "\n".join([text, *(self.apart.lines() if self.apart else []), *([HACKED] if self.hacked else [])])

    @property
    def hacked(self) -> bool:
        """Whether reward and FID have both risen by more than chance explains."""
        if self.base is None or self.apart is None or self.apart.rising_fid is None:
            return False
        gain = (self.scores.values - self.base.values).double()
        gain = gain[gain.isfinite()]
        return len(gain) > 1 and float(gain.mean()) > CERTAIN * float(gain.std()) / math.sqrt(len(gain))


@dataclass(frozen=True)
class HeldOut:
    """Prompts on which a training is measured while it runs: always the same, from the same noise.

    every: iterations between two measurements. hand_out: which policy the run gives in the end, one of
    ``run.held_out.HAND_OUT``. progress: called with the policy's model before each measurement, gives what ``evaluate``
    reports to. embedding: distances of the pictures are measured, too. blind: they are also compared blind, see run.gate.Gate.
    """

    prompts: PromptSet
    vae: Any
    reward: Any
    sampling: Sampling
    every: int
    hand_out: str
    progress: Callable[[Any], Callable] | None = None
    embedding: Embedding | None = None
    blind: Any = None
    __repr__ = brief

    @property
    def identity(self) -> str:
        """Changes with whatever changes the numbers, so that those of other prompts or rewards are not compared."""
        texts = [(prompt.key, prompt.spec) for prompt in self.prompts.prompts]
        facts: tuple = (texts, asdict(self.sampling), asdict(as_reward(self.reward).info))
        if self.blind is not None:
            facts += (self.blind.against, asdict(as_reward(self.blind.judge).info))
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def measure(self, policy: Policy, compare: bool, known: Known | None = None) -> Evaluation:
        """compare: the model before training, too. known: of an earlier measurement, where there was one in this session."""
        progress = None if self.progress is None else self.progress(policy.model)
        compare = compare or self.embedding is not None and known is None
        return evaluate(policy, self.prompts, self.vae, self.reward, self.sampling, compare, progress, self.embedding, known)


def _mean(values: torch.Tensor) -> str:
    known = values[values.isfinite()]
    error = float(known.std()) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return f"{float(known.mean()):.3f} ± {error:.3f}" if len(known) else "unknown"


def evaluate(policy: Policy, prompts: PromptSet, vae, reward, sampling: Sampling, compare: bool = True,
             progress: Callable | None = None, embedding: Embedding | None = None, known: Known | None = None) -> Evaluation:
    """Scores ``images_per_prompt`` images of every prompt, sampled without random steps; compare: the base model too.

    Both are scored at once, so that a reward that compares images, or a person, sees them side by side and mixed.
    embedding: also measures how far the images lie from its pictures, or from as many of the base model's from other noise,
    which are sampled for that. known: of an earlier evaluation, what need not be made again for it.
    """
    quiet = quiet_sampling(policy, sampling, len(prompts))
    others = embedding is not None and not embedding.pictures and known is None
    parts = 1 + compare + others

    def half(weights: str, part: int, iteration: int = 0) -> Rollout:
        def report(done, total, x0):
            progress(part * total + done, total * parts, x0)
        return rollout(policy, prompts, vae, quiet, iteration, weights=weights, progress=report if progress else None)

    halves = [half(weights, part) for part, weights in enumerate(("trained", "reference")[:1 + compare])]
    scores = score(reward, torch.cat([made.images for made in halves]),
                   [prompt for made in halves for prompt in made.prompts_of_samples()],
                   torch.cat([made.index for made in halves]))
    count = len(halves[0].images)
    found = [(scores.part(slice(i * count, (i + 1) * count)), made.images) for i, made in enumerate(halves)]
    base, base_images = found[1] if compare else (None, None)
    apart = None
    if embedding is not None:
        beside = half("reference", parts - 1, OTHER_NOISE).images if others else None
        known = known or known_features(embedding, beside, base_images)
        apart = how_far(embedding, known, found[0][1])
    return Evaluation(*found[0], base, base_images, halves[0].evaluations, apart, known, halves[0].prompts_of_samples())


def quiet_sampling(policy: Policy, sampling: Sampling, prompts: int) -> Sampling:
    """So that all of so many prompts are drawn, without random steps."""
    return replace(settled_sampling(policy, sampling), transition="deterministic", window="fixed",
                   prompts_per_iteration=prompts)


def pictures_of(model, prompts: PromptSet, vae, sampling: Sampling, progress: Callable | None = None,
                iteration: int = 0) -> Rollout:
    """What a MODEL makes as it is, with whatever LoRA lies on it. The noise depends on the sampling's seed, the number of prompts
    and the iteration alone."""
    policy = create_policy(model, Recipe(rank=1))
    return rollout(policy, prompts, vae, quiet_sampling(policy, sampling, len(prompts)), iteration, weights="reference",
                   progress=progress)


def known_features(embedding: Embedding, others: torch.Tensor | None, before: torch.Tensor | None) -> Known:
    """others: images [M, H, W, 3] to compare with; None: the embedding's own pictures. before: those of the model before."""
    reference = embedding.of_pictures() if others is None else embedding.of(others)
    return Known(reference, None if before is None else embedding.of(before))


def how_far(embedding: Embedding, known: Known, images: torch.Tensor) -> Apart:
    """The distances of images [N, H, W, 3]."""
    found = embedding.distances(known.reference, embedding.of(images), known.before)
    return Apart(tuple(found), len(images), len(known.reference), bool(embedding.pictures))
