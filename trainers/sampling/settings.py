"""Settings of a rollout: how many images of what, which steps are noisy, and how."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...rewards.base.words import brief
from ..noise.streams import Stream, generator
from ..noise.transitions import TRANSITIONS

EACH_PROMPT = "one step for each prompt"
BRANCHES = "branches of one trunk"
WINDOWS = ("fixed", "random each iteration", "random in the first half", "moves along", "moves along slowly", EACH_PROMPT,
           BRANCHES)
HELD = 25  # iterations in which a slow window stays where it is, MixGRPO's number
AUTO = "auto"


@dataclass(frozen=True)
class Sampling:
    """Settings of a rollout.

    steps: network evaluations per image; scheduler: any of ComfyUI's; guidance: classifier-free guidance scale, 1 is
    off; width, height: pixels; transition: a name of transitions.TRANSITIONS or "auto" (flow_sde for flow models,
    ddim for the others); noise_level: the transition's strength (0 with "auto": 0.7 for flow_sde, 1 for ddim);
    first_noisy_step, noisy_steps: which steps are random and may be trained (0 noisy steps: all but the last);
    window: whether that range stays, jumps (to anywhere, or within the first half as Flow-GRPO-Fast's) or moves by a step,
    in each iteration or after HELD (as MixGRPO's); or EACH_PROMPT: of that range one step for each prompt, drawn anew in each
    iteration, is random for its images (as Flash-GRPO's); or BRANCHES: each image of a prompt leaves the prompt's one quiet way
    at a step of its own and goes on quietly, as many at each step of that range (as TempFlow-GRPO's); same_start: one starting
    noise for all images of a prompt, which are one image until the first random step; batch_size: images evaluated at once;
    open: names of the fields that were left to the recommended numbers.
    """

    CHOICES: ClassVar[dict] = {"transition": (AUTO, *TRANSITIONS), "window": WINDOWS}
    steps: int = 10
    scheduler: str = "simple"
    guidance: float = 1.0
    width: int = 512
    height: int = 512
    prompts_per_iteration: int = 8
    images_per_prompt: int = 8
    transition: str = AUTO
    noise_level: float = 0.0
    first_noisy_step: int = 0
    noisy_steps: int = 0
    window: str = "fixed"
    same_start: bool = False
    batch_size: int = 4
    seed: int = 0
    open: tuple[str, ...] = ()
    __repr__ = brief

    @property
    def one_start(self) -> bool:
        """Whether the images of a prompt start from one noise in a rollout."""
        return self.same_start or self.window == BRANCHES and self.transition != "deterministic"

    def __post_init__(self):
        least = {"steps": 1, "prompts_per_iteration": 1, "images_per_prompt": 1, "batch_size": 1, "first_noisy_step": 0,
                 "noisy_steps": 0, "noise_level": 0, "guidance": 0}
        for name, smallest in least.items():
            if not smallest <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)} is not possible; choose {smallest} or more")
        if self.window not in WINDOWS:
            raise ValueError(f"window: unknown {self.window!r}; use one of {', '.join(WINDOWS)}")


def resolved_transition(sampling: Sampling, path_name: str) -> tuple[str, float]:
    """(name, strength) with "auto" replaced by the usual choice for the model."""
    name, strength = sampling.transition, sampling.noise_level
    if name == AUTO:
        name = "flow_sde" if path_name == "flow" else "ddim"
        strength = strength or {"flow_sde": 0.7, "ddim": 1.0}[name]
    return name, strength


def steps_of_prompts(sampling: Sampling, iteration: int, index: torch.Tensor, noisy: tuple[int, int]) -> torch.Tensor | None:
    """[B]: the one random step of each sample, of the range ``noisy``, the same for all images of a prompt (iso-temporal groups,
    Flash-GRPO, arXiv:2605.15980); None where all of the range are random. index: [B] the prompt of each."""
    if sampling.window != EACH_PROMPT:
        return None
    first, end = noisy
    drawn = {prompt: first + int(torch.randint(end - first, (), generator=generator(
        sampling.seed, iteration, prompt, Stream.PROMPT_STEP))) for prompt in index.unique().tolist()}
    return torch.tensor([drawn[prompt] for prompt in index.tolist()])


def steps_of_branches(sampling: Sampling, count: int, noisy: tuple[int, int]) -> torch.Tensor:
    """[B]: the step at which each of ``count`` images leaves its prompt's way, of the range ``noisy`` (TempFlow-GRPO,
    arXiv:2508.04324). ValueError where the images of a prompt cannot be dealt evenly, 2 or more to a step."""
    (first, end), each = noisy, sampling.images_per_prompt
    if each % (end - first) or each < 2 * (end - first):
        raise ValueError(f"images per prompt: {each} cannot be dealt evenly to {end - first} random steps, 2 branches or more to "
                         f"each; choose {2 * (end - first)}, {3 * (end - first)} and so on, or fewer noisy steps")
    steps = torch.arange(first, end).repeat_interleave(each // (end - first))
    return steps.repeat(count // each)


def own_steps(sampling: Sampling, iteration: int, index: torch.Tensor, noisy: tuple[int, int]) -> torch.Tensor | None:
    """[B]: the one random step of each sample; None where all of the range ``noisy`` are random. index: [B] its prompt."""
    if sampling.window == BRANCHES and noisy[1] > noisy[0]:
        return steps_of_branches(sampling, len(index), noisy)
    return steps_of_prompts(sampling, iteration, index, noisy)


def noisy_range(sampling: Sampling, iteration: int, payable: tuple[int, int] | None = None) -> tuple[int, int]:
    """(first, end) of the random steps; the last step, which ends without noise, is never one of them.

    payable: (first, end) of the steps that may be random, see ``plan.payable_steps``; None: all but the last.
    """
    begin, last = (0, sampling.steps - 1) if payable is None else payable
    if sampling.first_noisy_step >= last:
        raise ValueError(f"first noisy step: {sampling.first_noisy_step} leaves no step to train with {sampling.steps} "
                         f"steps of {sampling.scheduler!r}: step {last} and later ones end with next to no noise, or none; "
                         "choose a smaller one, more steps or the scheduler 'simple'")
    first, count = max(begin, sampling.first_noisy_step), sampling.noisy_steps or last
    until = sampling.steps // 2 if sampling.window == "random in the first half" else last
    room = max(0, until - first - count)
    if sampling.window.startswith("random"):
        first += int(torch.randint(room + 1, (), generator=generator(sampling.seed, iteration, Stream.WINDOW)))
    elif sampling.window.startswith("moves"):
        first += iteration // (HELD if sampling.window == "moves along slowly" else 1) % (room + 1)
    return first, min(last, first + count)
