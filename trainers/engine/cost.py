"""How many images and network evaluations an iteration takes, counted from its plan before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from ...rewards.base.words import brief
from ..sampling.settings import BRANCHES, EACH_PROMPT, Sampling, noisy_range, steps_of_branches

Train = tuple[int, int]  # evaluations of a train step with gradient, and further ones


@dataclass(frozen=True)
class Work:
    """An iteration. images, prompts: how many it samples; pairs: that it learns from; steps: of the sampler; random: those of
    them that are trained on; shared: the steps before the first random one, where a prompt's images are one until then;
    guidance: of the sampling, and branches: evaluations that it makes of one; batch: samples at once; updates: per iteration;
    replays: the steps in which a batch is trained on, where each prompt or image has one of its own, 0: all random ones; skipped:
    evaluations of a sample that are made once for several, 0: the shared ones;
    lagging: whether the method's copy of older weights is not the policy itself; by_group: a micro-batch holds whole prompts."""

    __repr__ = brief

    images: int
    prompts: int
    pairs: int
    steps: int
    random: int
    shared: int = 0
    guidance: float = 1.0
    batch: int = 1
    updates: int = 1
    lagging: bool = False
    by_group: bool = False
    replays: int = 0
    skipped: int = 0

    @property
    def branches(self) -> int:
        return branches(self.guidance)

    @property
    def sampling(self) -> int:
        """Evaluations of the rollout."""
        skipped = self.skipped or self.images * self.shared
        return self.branches * (self.prompts * self.shared + self.images * self.steps - skipped)

    @property
    def first_batches(self) -> int:
        """Images in the first micro-batch of each update."""
        return sum(_sizes(self.images, self.batch)[: self.updates])

    def replayed(self, reference: bool, watched: bool = False) -> Train:
        """Every random step of every image. reference: asked for each of them too; watched: for one batch of each update."""
        once = self.branches * self.images * (self.replays or self.random)
        some = self.branches * self.first_batches if watched and self.random else 0
        return once, once if reference else some

    def noised(self, levels: int, each: int = 0, later: int = 0) -> Train:
        """Every image at so many noise levels. each: further evaluations of each, later: of those after the first update."""
        unit = whole_groups(self.batch, self.images // self.prompts) if self.by_group else self.batch
        first = sum(_sizes(self.images, unit)[:: self.updates])
        return self.images * levels, levels * (each * self.images + later * (self.images - first))

    def paired(self, each: int, reference: bool) -> Train:
        """Both images of every pair so often."""
        return 2 * self.pairs * each, 2 * self.pairs * each if reference else 0

    def walked(self, further: int = 0) -> Train:
        """Images made in the step itself, and so many evaluations more of each; all of them count as with gradient."""
        return self.branches * self.images * (self.steps + further), 0


@dataclass(frozen=True)
class Cost:
    """What an iteration takes. images: that it makes; sampling: evaluations of the rollout; gradient, further: of the train step,
    with a backward and without. An evaluation is one image through the network once; guidance makes it two."""

    images: int
    sampling: int
    gradient: int
    further: int
    __repr__ = brief

    @property
    def training(self) -> int:
        return self.gradient + self.further

    def words(self) -> str:
        return (
            f"An iteration makes {self.images:,} images and {self.sampling + self.training:,} network evaluations: "
            + (f"{self.sampling:,} to sample, " if self.sampling else "")
            + f"{self.gradient:,} with gradient"
            + (f", {self.further:,} further ones" if self.further else "")
            + "."
        )


def work_of(sampling: Sampling, prompts: int, updates: int, own_images: bool, iteration: int = 0) -> Work:
    """The iteration that these settings ask for. prompts: how many there are; own_images: whether the trainer samples itself.

    As many steps count as random as the settings say; a schedule that cannot pay for all their noise has fewer.
    """
    chosen = min(sampling.prompts_per_iteration, prompts)
    images = chosen * sampling.images_per_prompt
    still = own_images or sampling.transition == "deterministic"
    first, end = (0, 0) if still else noisy_range(sampling, iteration)
    shared = first if sampling.one_start and sampling.images_per_prompt > 1 and not own_images else 0
    replays, skipped = min(end - first, _prompts_in(sampling)) if sampling.window == EACH_PROMPT else 0, 0
    if sampling.window == BRANCHES and end > first:
        batches = steps_of_branches(sampling, images, (first, end)).split(sampling.batch_size)
        replays, shared = max(len(part.unique()) for part in batches), end - 1
        skipped = sum(len(part) * int(part.min()) for part in batches)
    return Work(
        images,
        chosen,
        chosen,
        sampling.steps,
        end - first,
        shared,
        sampling.guidance,
        sampling.batch_size,
        updates,
        replays=replays,
        skipped=skipped,
    )


def branches(guidance: float) -> int:
    """Evaluations that one at this guidance scale is made of."""
    return 1 if guidance == 1 else 2


def whole_groups(batch: int, group: int) -> int:
    """Images of a micro-batch that holds whole prompts, ``group`` images of each."""
    return max(batch // group, 1) * group


def _prompts_in(sampling: Sampling) -> int:
    """Of how many prompts the images of a batch may be, at most."""
    each, batch = sampling.images_per_prompt, sampling.batch_size
    if each % batch == 0 or batch % each == 0:
        return max(1, batch // each)
    return (batch - 2) // each + 2


def _sizes(count: int, unit: int) -> list[int]:
    return [min(unit, count - at) for at in range(0, count, unit)]
