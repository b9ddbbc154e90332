"""What one iteration samples: which prompts, how many images, which steps are noisy, from which seeds."""
from __future__ import annotations

from dataclasses import dataclass

import torch

WINDOWS = ("fixed", "random each iteration", "random in the first half", "moves along", "moves along slowly")
HELD = 25  # iterations in which a slow window stays where it is, MixGRPO's number
AUTO = "auto"
_PRIMES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


@dataclass(frozen=True)
class Sampling:
    """Settings of a rollout.

    steps: network evaluations per image; scheduler: any of ComfyUI's; guidance: classifier-free guidance scale, 1 is
    off; width, height: pixels; transition: a name of transitions.TRANSITIONS or "auto" (flow_sde for flow models,
    ddim for the others); noise_level: the transition's strength (0 with "auto": 0.7 for flow_sde, 1 for ddim);
    first_noisy_step, noisy_steps: which steps are random and may be trained (0 noisy steps: all but the last);
    window: whether that range stays, jumps (to anywhere, or within the first half as Flow-GRPO-Fast's) or moves by a step,
    in each iteration or after HELD (as MixGRPO's); same_start: one starting noise for all images
    of a prompt, which are one image until the first random step; batch_size: images evaluated at once.
    """

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
    batch_size: int = 8
    seed: int = 0

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


def noisy_range(sampling: Sampling, iteration: int) -> tuple[int, int]:
    """(first, end) of the random steps; the last step, which ends without noise, is never one of them."""
    last = sampling.steps - 1
    if sampling.first_noisy_step >= last:
        raise ValueError(f"first noisy step: {sampling.first_noisy_step} leaves no step to train with {sampling.steps} "
                         "steps (the last one has no noise); choose a smaller one or more steps")
    first, count = sampling.first_noisy_step, sampling.noisy_steps or last
    until = sampling.steps // 2 if sampling.window == "random in the first half" else last
    room = max(0, until - first - count)
    if sampling.window.startswith("random"):
        first += int(torch.randint(room + 1, (), generator=generator(sampling.seed, iteration, 1)))
    elif sampling.window.startswith("moves"):
        first += iteration // (HELD if sampling.window == "moves along slowly" else 1) % (room + 1)
    return first, min(last, first + count)


def generator(*key: int) -> torch.Generator:
    """A CPU generator for this key of integers; different keys give unrelated numbers."""
    mixed = 0
    for k in key:
        mixed = ((mixed ^ (int(k) & (2**64 - 1))) * _PRIMES[0] + _PRIMES[1]) & (2**64 - 1)
        mixed ^= mixed >> 29
        mixed = (mixed * _PRIMES[2]) & (2**64 - 1)
        mixed ^= mixed >> 32
    return torch.Generator().manual_seed(mixed & (2**63 - 1))


def chosen_prompts(count: int, sampling: Sampling, iteration: int) -> torch.Tensor:
    """[P] indices: the prompts are dealt like cards, so all are used before one comes again."""
    wanted = min(sampling.prompts_per_iteration, count)
    first = iteration * wanted
    picks = [int(_deck(count, sampling.seed, position // count)[position % count])
             for position in range(first, first + wanted)]
    return torch.tensor(picks)


def _deck(count: int, seed: int, deal: int) -> torch.Tensor:
    return torch.randperm(count, generator=generator(seed, deal, 2))


@dataclass(frozen=True)
class Samples:
    """The images of one iteration. index: [B] the prompt of each; seeds: [B] int64; starts: [B] seeds of the first
    noise where the images of a prompt share it, else None."""

    index: torch.Tensor
    seeds: torch.Tensor
    starts: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.index)

    def noise(self, rows: slice | torch.Tensor) -> SampleNoise:
        return SampleNoise(self.seeds[rows], None if self.starts is None else self.starts[rows])


def chosen_samples(count: int, sampling: Sampling, iteration: int) -> Samples:
    """What the iteration samples of ``count`` prompts; ValueError where there is none."""
    if not count:
        raise ValueError("prompts: the list is empty; write at least one prompt")
    picks = chosen_prompts(count, sampling, iteration)
    index = picks.repeat_interleave(sampling.images_per_prompt)
    seeds = torch.randint(2**62, (len(index),), generator=generator(sampling.seed, iteration, 3))
    starts = None
    if sampling.same_start:
        shared = torch.randint(2**62, (len(picks),), generator=generator(sampling.seed, iteration, 4))
        starts = shared.repeat_interleave(sampling.images_per_prompt)
    return Samples(index, seeds, starts)


class SampleNoise:
    """Noise of each sample from its own generator, so that a batch may be cut anywhere.

    seeds: [B] int64; starts: seeds of the first draw, where samples share it.
    """

    def __init__(self, seeds: torch.Tensor, starts: torch.Tensor | None = None):
        self._generators = [generator(int(s)) for s in seeds]
        self._starts = None if starts is None else [generator(int(s)) for s in starts]

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        """[B, *shape] standard normal, float32."""
        return _draw(self._generators if self._starts is None else self._starts, shape)

    def next(self, shape: tuple[int, ...]) -> torch.Tensor:
        return _draw(self._generators, shape)


def _draw(generators, shape) -> torch.Tensor:
    out = torch.empty((len(generators), *shape))
    for row, g in zip(out, generators):
        torch.randn(shape, generator=g, out=row)
    return out
