"""What a run will need, from a few images made and trained on with its own settings before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from ...rewards.base.words import brief
from ..policy.meter import Taken
from ..policy.room import room_of, words_of
from ..policy.value import Policy
from ..sampling.settings import Sampling
from .cost import Cost

FEW = (2, 4)  # images at once, from which a larger batch is reckoned
STEPS = 4  # of the sampler, of which one is random: more of them need no more memory
GB = 2**30


@dataclass(frozen=True)
class Trial:
    """images: at once; step: what the train step took; sampling, decoding: seconds of one evaluation and of one picture;
    training: seconds of one evaluation of the train step."""

    __repr__ = brief

    images: int
    step: Taken
    sampling: float
    decoding: float
    training: float


def trial_sizes(at_once: int) -> tuple[int, ...]:
    """The images at once of each trial, for a run with so many."""
    return (at_once,) if at_once <= FEW[1] else FEW


def small(sampling: Sampling, images: int, own_images: bool) -> Sampling:
    """The same for one prompt and so many images, in one batch. own_images: the trainer counts the steps, so all stay."""
    few = replace(
        sampling, prompts_per_iteration=1, images_per_prompt=images, batch_size=images, window="fixed", same_start=False
    )
    return few if own_images else replace(few, steps=min(sampling.steps, STEPS), first_noisy_step=0, noisy_steps=1)


def at_one_level(settings):
    """A method's settings with one noise level of each image: more of them come one after the other."""
    return replace(settings, levels=1) if "levels" in {field.name for field in fields(settings)} else settings


@dataclass(frozen=True)
class Forecast:
    """cost: None of a trainer of another pack; bytes: the most on the card, None where it does not say; seconds: of an iteration,
    None where nobody knows its evaluations; given_up: what memory did not suffice for in the trials, in words."""

    cost: Cost | None
    bytes: float | None
    seconds: float | None
    given_up: str = ""
    __repr__ = brief

    def words(self, free: int) -> str:
        """free: bytes of the card."""
        parts = [self.cost.words()] if self.cost is not None else []
        if self.seconds is not None:
            parts.append(f"It takes {_time(self.seconds)} without the scoring.")
        if self.bytes is not None:
            parts.append(f"The most on the card is about {self.bytes / GB:.1f} GB, and {free / GB:.1f} GB are free.")
            if self.bytes > 0.9 * free:
                parts.append(
                    "That is too much, or nearly: the run will go on with low memory, with fewer images at once, and at last "
                    "streamed from RAM. Lower the batch size or the image size, or switch on low memory."
                )
        return "\n".join([*parts, self.given_up]).strip()


def forecast(policy: Policy, trial: Callable[[Policy, int], tuple[Policy, Trial]], at_once: int, cost: Cost | None) -> Forecast:
    """trial(policy, images) -> the policy after a step on so many images, and what that took; at_once: images in a micro-batch.

    The first trial only warms up: a first step finds out what a network does, and has no moments yet.
    """
    sizes = trial_sizes(at_once)
    warm, _ = trial(policy, sizes[0])
    trials = []
    for images in sizes:
        warm, taken = trial(warm, images)
        trials.append(taken)
    last, seconds = trials[-1], None
    if cost is not None:
        seconds = cost.sampling * last.sampling + cost.images * last.decoding + cost.training * last.training
    words = words_of(warm.memory) if room_of(warm.memory) != room_of(policy.memory) else ""
    return Forecast(cost, reckoned(trials, at_once), seconds, words)


def reckoned(trials: Sequence[Trial], at_once: int) -> float | None:
    """The bytes of a step with ``at_once`` images, which grow on a line with them."""
    (first, last), sizes = (trials[0], trials[-1]), (trials[0].images, trials[-1].images)
    if first.step.bytes is None or last.step.bytes is None:
        return None
    each = (last.step.bytes - first.step.bytes) / (sizes[1] - sizes[0]) if sizes[0] != sizes[1] else 0.0
    return last.step.bytes + each * (at_once - sizes[1])


def _time(seconds: float) -> str:
    return (
        f"about {seconds / 60:.1f} minutes"
        if seconds >= 90
        else f"about {seconds:.0f} seconds"
        if seconds >= 2
        else f"about {seconds:.2f} seconds"
    )
