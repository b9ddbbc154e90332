"""Rollout: samples images with the policy and keeps what a trainer needs."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ...rewards.base import ranks
from ...rewards.base.stopwatch import DECODING, SAMPLING, timed
from ...rewards.base.words import brief
from ..noise.paths import expand
from ..noise.transitions import sample
from ..policy.fitting import in_room
from ..policy.latents import image_bytes, latent_shape, to_images
from ..policy.levels import sigmas_of
from ..policy.network import Network
from ..policy.room import WHOLE, Room
from ..policy.scratch import free_ram
from ..policy.value import Bank, Policy
from ..policy.weights import outside_inference
from ..prompts import PromptSet
from .draws import SampleNoise, Samples, prepared_samples
from .need import Need, check_room, encoding_bytes, rollout_need
from .plan import SamplingPlan, plan_of
from .recommended import settled_sampling
from .settings import BRANCHES, Sampling, own_steps
from .trajectory import StepsKept, Trajectory

Progress = Callable[[int, int, "torch.Tensor | None"], None]


@dataclass(frozen=True)
class Behind:
    """Of a rollout that others have sampled while the policy was trained. iterations: train steps since; bank: what sampled."""

    iterations: int
    bank: Bank
    __repr__ = brief


@dataclass(frozen=True)
class Rollout:
    """What sampling leaves behind, B samples.

    latents: [B, C, H, W] clean, in the model's own space; images: [B, H, W, 3] in [0, 1]; index: [B] the prompt of
    each sample in ``prompts``; seeds: [B]; guidance: the scale sampled with; sigmas: [steps + 1]; trajectory: None
    where no step was random; batch_size: images evaluated at once, which a trainer keeps so that its numbers are the
    same; iteration: of the run; evaluations: network calls on a sample; left_out: steps of the window that could not be
    random, see ``plan.payable_steps``; sampling: the settings, where it was sampled by them, and recommended: the names of those
    that were left to the recommended numbers; room: what was given up for want of memory; reward_weights: see ``score_rollout``;
    behind: None where the policy that is trained has sampled it.
    """

    latents: torch.Tensor
    images: torch.Tensor
    prompts: PromptSet
    index: torch.Tensor
    seeds: torch.Tensor
    guidance: float
    sigmas: torch.Tensor
    trajectory: Trajectory | None
    batch_size: int
    iteration: int = 0
    evaluations: int = 0
    left_out: int = 0
    sampling: Sampling | None = None
    recommended: tuple[str, ...] = ()
    room: Room = WHOLE
    reward_weights: Mapping[str, float] | None = None
    behind: Behind | None = None
    __repr__ = brief

    @property
    def late(self) -> bool:
        """Whether the policy has been trained since it sampled."""
        return self.behind is not None and self.behind.iterations > 0

    def sampled_by(self, now: Bank | None) -> Bank | None:
        """The weights that sampled; now: those of the policy that the step begins with."""
        return self.behind.bank if self.behind is not None and self.late else now

    def numbers(self) -> dict[str, float]:
        """For the curve."""
        found: dict[str, float] = {"rollout_evaluations": self.evaluations}
        found |= {"steps_left_out": self.left_out} if self.left_out else {}
        return found | ({} if self.behind is None else {"iterations_behind": self.behind.iterations})

    @property
    def groups(self) -> torch.Tensor:
        """[B]: samples of the same number are compared with each other: a prompt's, or its branches at the same step."""
        if self.trajectory is None or self.sampling is None or self.sampling.window != BRANCHES:
            return self.index
        return self.index * self.trajectory.steps + self.trajectory.branch

    def random_steps(self) -> Trajectory:
        """The trajectory; ValueError where no step of the rollout was random."""
        if self.trajectory is None:
            raise ValueError("rollout: no step was random, so there is no likelihood to train with; set the noise level "
                             "above 0 (eta 1 for noise-prediction models) in the sampling settings. Latents of another "
                             "sampler, or of other computers, have no steps at all: learn from them with a trainer that needs "
                             "none, such as DiffusionNFT")
        return self.trajectory

    def prompts_of_samples(self):
        """The prompt of each sample, for a reward."""
        return [self.prompts.prompts[int(i)] for i in self.index]


@timed(SAMPLING)
@torch.inference_mode(False)
@torch.no_grad()
def rollout(policy: Policy, prompts: PromptSet, vae, sampling: Sampling, iteration: int = 0, *,
            weights: str = "behaviour", keep_means: bool = True, progress: Progress | None = None,
            tell: Callable[[Need], None] | None = None) -> Rollout:
    """Samples ``images_per_prompt`` images for some of the prompts.

    vae: the user's VAE; iteration: decides prompts and noise together with the seed; weights: which of the policy's,
    see ``Policy.chosen``; keep_means: whether the steps' means stay, see ``methods.reads_means``;
    progress: called with (network calls made, all, a clean estimate [1, C, H, W]) after each; tell: called with what it needs
    before it samples.
    Raises ValueError naming the setting that does not fit.
    """
    left_open, sampling = sampling.open, settled_sampling(policy, sampling)
    shape = latent_shape(policy.model, vae, sampling.width, sampling.height)
    samples = prepared_samples(prompts, replace(sampling, same_start=sampling.one_start), iteration)
    drawn = samples.index.unique().tolist()

    def sampled(net: Network):
        plan = plan_of(net, sampling, iteration)
        need = rollout_need(shape, sampling, len(prompts), plan.noisy[1] - plan.noisy[0], keep_means,
                            image_bytes(vae, (1, *shape)), encoding_bytes(prompts, drawn))
        say_and_check(need, tell)
        chosen = policy.chosen(weights)
        bank = None if chosen is None else net.to_device(chosen)
        sampler = Sampler(net, bank, prompts, samples, sampling, plan, shape, keep_means, progress,
                           own_steps(sampling, iteration, samples.index, plan.noisy))
        latents = sampler.latents()
        return plan, latents, sampler.kept, ranks.total("evaluations", net.evaluations)

    (plan, latents, kept, evaluations), room = in_room(policy, sampled)
    return Rollout(latents=latents, images=pictures(policy.model, vae, latents), prompts=prompts, index=samples.index,
                   seeds=samples.seeds, guidance=sampling.guidance, sigmas=plan.sigmas,
                   trajectory=kept.trajectory(), batch_size=sampling.batch_size, iteration=iteration,
                   evaluations=evaluations, left_out=plan.left_out, sampling=sampling, recommended=left_open, room=room)


def say_and_check(need: Need, tell: Callable[[Need], None] | None) -> None:
    """Tells what a rollout needs; ValueError where a rank has no room for it."""
    if tell is not None:
        tell(need)
    check_room(need, min(ranks.met("free memory", free_ram())))


@torch.inference_mode(False)
@torch.no_grad()
def rollout_from_latents(policy: Policy, latents: torch.Tensor, prompts: PromptSet, vae, prompt_number: int,
                         guidance: float = 1.0) -> Rollout:
    """A Rollout without trajectory out of model-space latents [B, C, H, W] that some sampler made.

    prompt_number: the prompt of all of them, counted from 1; 0 divides the batch evenly among the prompts in order.
    """
    count = len(latents)
    if not 0 <= guidance < math.inf:
        raise ValueError(f"guidance: {guidance} is not possible; give the cfg that the sampler used")
    if not count:
        raise ValueError("latent: the batch is empty; connect latents of at least one image")
    if not 0 <= prompt_number <= len(prompts):
        raise ValueError(f"prompt number: {prompt_number}, but there are {len(prompts)} prompts")
    if prompt_number == 0 and count % len(prompts):
        raise ValueError(f"latent: {count} latents cannot be divided evenly among {len(prompts)} prompts; set the prompt "
                         "number, or sample equally many for each")
    index = (torch.full((count,), prompt_number - 1) if prompt_number
             else torch.arange(len(prompts)).repeat_interleave(count // len(prompts)))
    prompts.prepare(index.unique())
    return Rollout(latents=latents, images=to_images(policy.model, vae, latents), prompts=prompts, index=index,
                   seeds=torch.arange(count), guidance=guidance, trajectory=None, batch_size=min(count, 4),
                   sigmas=sigmas_of(policy.model.get_model_object("model_sampling"), "simple", 20))


@timed(DECODING)
def pictures(model, vae, latents: torch.Tensor, at_once: int = 0) -> torch.Tensor:
    """[B, H, W, 3]: decoded, each rank its own. at_once: how many, 0 for all."""
    own = latents[ranks.block(len(latents))]
    parts = [to_images(model, vae, part) for part in own.split(at_once or max(1, len(own)))] if len(own) else []
    return ranks.joined_blocks("images", parts, len(latents))  # one part may lie in a mapped file, and stays there


def for_autograd(rollout: Rollout) -> Rollout:
    """The same rollout with tensors that autograd accepts; prompts are as they are: what encodes them for the network takes
    care of those that it uses, and a copy of all would be as large as the prompt set."""
    return replace(outside_inference(replace(rollout, prompts=PromptSet(()))), prompts=rollout.prompts)


class Sampler:
    """All samples of a rollout, a batch at a time. Images of a prompt that start alike are one until the first random
    step, so that part is computed once for all of them; branches are one until each its own."""

    def __init__(self, net: Network, bank, prompts: PromptSet, samples: Samples, sampling: Sampling, plan: SamplingPlan, shape,
                 keep_means: bool, progress: Progress | None, own: torch.Tensor | None):
        self.net, self.bank, self.prompts, self.samples = net, bank, prompts, samples
        self.sampling, self.plan, self.shape, self.progress = sampling, plan, shape, progress
        self.alike = sampling.images_per_prompt if sampling.one_start else 1
        self.shared_steps = plan.noisy[0] if self.alike > 1 else 0
        self.trunk_steps = max(plan.noisy[1] - 1, 0) if sampling.window == BRANCHES else self.shared_steps
        self.calls = 0
        self.kept = StepsKept(len(samples), plan, keep_means, own)

    def latents(self) -> torch.Tensor:
        """[B, C, H, W] clean; what the random steps leave behind is in ``kept`` afterwards."""
        count, size = len(self.samples), self.sampling.batch_size
        batches, starts = ranks.own_batches(count, size), ranks.own_batches(math.ceil(count / self.alike), size)
        self.total = self.trunk_steps * len(starts) + sum(self.plan.steps - self._begun(rows) for rows in batches)
        shared = self._shared(starts, math.ceil(count / self.alike)) if self.trunk_steps else None
        parts = [self._chunk(rows, shared) for rows in batches]
        if ranks.splits_work():
            own = ranks.block(count, size)
            kept = {name: value[own] for name, value in self.kept.values.items()}
            self.kept.values = ranks.gathered("random steps", kept, count, size)
        return ranks.joined_rows("latents", parts, count, size)

    def _shared(self, batches: list[torch.Tensor], count: int) -> torch.Tensor:
        """[P, 1 or more, C, H, W]: each prompt's state before the first random step, and before those that branches leave at.
        batches: of the prompts, those of this process; count: P."""
        states = []
        for rows in (prompts * self.alike for prompts in batches):
            x, index = self._start(self.samples.noise(rows)), self.samples.index[rows]
            way = [x]
            for i in range(self.trunk_steps):
                x = self._quiet(x, self._denoise(x, i, index), i)
                way.append(x)
            states.append(torch.stack(way[self.shared_steps:], 1))
        return ranks.joined_rows("shared states", states, count, self.sampling.batch_size).to(self.net.device)

    def _begun(self, rows: torch.Tensor) -> int:
        """The first step that these samples do not share with others."""
        if self.kept.own is None or self.sampling.window != BRANCHES:
            return self.shared_steps
        return int(self.kept.own[rows].min())

    def _chunk(self, rows: torch.Tensor, shared: torch.Tensor | None) -> torch.Tensor:
        (first, end), noise, index = self.plan.noisy, self.samples.noise(rows), self.samples.index[rows]
        begun = self._begun(rows)
        way = self._start(noise)[:, None] if shared is None else shared[rows // self.alike]
        x = way[:, 0]
        for i in range(first, begun):
            before, x = x, way[:, i + 1 - first]
            self.kept.pass_by(rows, i, before, x)
            noise.next(self.shape)  # as if it had been walked, wherever the batch is cut
        for i in range(begun, self.plan.steps):
            x0 = self._denoise(x, i, index)
            if not first <= i < end:
                x = self._quiet(x, x0, i)
                continue
            step = self.plan.noisy_step(self.net.path, x, x0, *self._levels(x, i))
            reached = sample(step, noise.next(self.shape).to(x.device))
            if self.kept.own is not None:
                random = expand((self.kept.own[rows] == i).to(x.device), x)
                reached = torch.where(random, reached, self._quiet(x, x0, i))
            self.kept.keep(rows, i, x, step, reached)
            x = reached
        return x.cpu()

    def _start(self, noise: SampleNoise) -> torch.Tensor:
        return self.net.start(noise.start(self.shape).to(self.net.device), float(self.plan.sigmas[0]))

    def _levels(self, x: torch.Tensor, i: int) -> list[torch.Tensor]:
        return [self.plan.sigmas[k].to(x.device).expand(len(x)) for k in (i, i + 1)]

    def _quiet(self, x: torch.Tensor, x0: torch.Tensor, i: int) -> torch.Tensor:
        return self.plan.quiet_step(self.net.path, x, x0, *self._levels(x, i)).mean

    def _denoise(self, x: torch.Tensor, i: int, index: torch.Tensor) -> torch.Tensor:
        x0 = self.net.denoise(x, self._levels(x, i)[0], self.prompts, index, self.sampling.guidance, self.bank,
                              schedule=self.plan.sigmas)
        self.calls += 1
        if self.progress is not None:
            self.progress(self.calls, self.total, x0[:1])
        return x0
