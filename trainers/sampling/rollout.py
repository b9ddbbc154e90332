"""Rollout: samples images with the policy and keeps what a trainer needs."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ...rewards.base.words import brief
from ..noise.transitions import TRANSITIONS, log_prob, sample
from ..policy.latents import latent_shape, to_images
from ..policy.levels import sigmas_of
from ..policy.network import Network, open_policy
from ..policy.value import Policy
from ..policy.weights import outside_inference
from ..prompts import PromptSet
from .draws import SampleNoise, Samples, chosen_samples
from .plan import SamplingPlan, plan_of
from .recommended import settled_sampling
from .settings import Sampling

Progress = Callable[[int, int, "torch.Tensor | None"], None]


@dataclass(frozen=True)
class Trajectory:
    """The random steps of a rollout, S of them, in RAM, float32.

    states: [B, S + 1, C, H, W], the state before each step and after the last; log_probs: [B, S] under the policy
    that sampled; means: [B, S, C, H, W]; sigmas: [S + 1]; transition, strength: which step, see transitions.py.
    """

    states: torch.Tensor
    log_probs: torch.Tensor
    means: torch.Tensor
    sigmas: torch.Tensor
    transition: str
    strength: float
    __repr__ = brief

    @property
    def steps(self) -> int:
        return self.log_probs.shape[1]


@dataclass(frozen=True)
class Rollout:
    """What sampling leaves behind, B samples.

    latents: [B, C, H, W] clean, in the model's own space; images: [B, H, W, 3] in [0, 1]; index: [B] the prompt of
    each sample in ``prompts``; seeds: [B]; guidance: the scale sampled with; sigmas: [steps + 1]; trajectory: None
    where no step was random; batch_size: images evaluated at once, which a trainer keeps so that its numbers are the
    same; iteration: of the run; evaluations: network calls on a sample; left_out: steps of the window that could not be
    random, see ``plan.payable_steps``; sampling: the settings, where it was sampled by them, and recommended: the names of those
    that were left to the recommended numbers.
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
    __repr__ = brief

    def random_steps(self) -> Trajectory:
        """The trajectory; ValueError where no step of the rollout was random."""
        if self.trajectory is None:
            raise ValueError("rollout: no step was random, so there is no likelihood to train with; set the noise level "
                             "above 0 (eta 1 for noise-prediction models) in the sampling settings. Latents of another "
                             "sampler have no steps at all: learn from them with a trainer that needs none, such as "
                             "DiffusionNFT")
        return self.trajectory

    def prompts_of_samples(self):
        """The prompt of each sample, for a reward."""
        return [self.prompts.prompts[int(i)] for i in self.index]


@torch.inference_mode(False)
@torch.no_grad()
def rollout(policy: Policy, prompts: PromptSet, vae, sampling: Sampling, iteration: int = 0, *,
            weights: str = "behaviour", progress: Progress | None = None) -> Rollout:
    """Samples ``images_per_prompt`` images for some of the prompts.

    vae: the user's VAE; iteration: decides prompts and noise together with the seed; weights: which of the policy's,
    see ``Policy.chosen``; progress: called with (network calls made, all, a clean estimate [1, C, H, W]) after each.
    Raises ValueError naming the setting that does not fit.
    """
    left_open, sampling = sampling.open, settled_sampling(policy, sampling)
    samples = chosen_samples(len(prompts), sampling, iteration)
    shape = latent_shape(policy.model, vae, sampling.width, sampling.height)
    with open_policy(policy) as net:
        plan = plan_of(net, sampling, iteration)
        chosen = policy.chosen(weights)
        bank = None if chosen is None else net.to_device(chosen)
        done = _Sampler(net, bank, prompts, samples, sampling, plan, shape, progress).chunks()
        evaluations = net.evaluations
    latents = torch.cat([c.latents for c in done])
    return Rollout(latents=latents, images=to_images(policy.model, vae, latents), prompts=prompts, index=samples.index,
                   seeds=samples.seeds, guidance=sampling.guidance, sigmas=plan.sigmas, trajectory=_trajectory(done, plan),
                   batch_size=sampling.batch_size, iteration=iteration, evaluations=evaluations, left_out=plan.left_out,
                   sampling=sampling, recommended=left_open)


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
    return Rollout(latents=latents, images=to_images(policy.model, vae, latents), prompts=prompts, index=index,
                   seeds=torch.arange(count), guidance=guidance, trajectory=None, batch_size=min(count, 4),
                   sigmas=sigmas_of(policy.model.get_model_object("model_sampling"), "simple", 20))


def for_autograd(rollout: Rollout) -> Rollout:
    """The same rollout with tensors that autograd accepts; prompts are as they are: what encodes them for the network takes
    care of those that it uses, and a copy of all would be as large as the prompt set."""
    return replace(outside_inference(replace(rollout, prompts=PromptSet(()))), prompts=rollout.prompts)


@dataclass(frozen=True)
class _Chunk:
    latents: torch.Tensor
    states: list[torch.Tensor]
    log_probs: list[torch.Tensor]
    means: list[torch.Tensor]
    __repr__ = brief


class _Sampler:
    """All samples of a rollout, a batch at a time. Images of a prompt that start alike are one until the first random
    step, so that part is computed once for all of them."""

    def __init__(self, net: Network, bank, prompts: PromptSet, samples: Samples, sampling: Sampling, plan: SamplingPlan, shape,
                 progress: Progress | None):
        self.net, self.bank, self.prompts, self.samples = net, bank, prompts, samples
        self.sampling, self.plan, self.shape, self.progress = sampling, plan, shape, progress
        self.alike = sampling.images_per_prompt if sampling.same_start else 1
        self.shared_steps = plan.noisy[0] if self.alike > 1 else 0
        self.calls = 0

    def chunks(self) -> list[_Chunk]:
        count, size = len(self.samples), self.sampling.batch_size
        self.total = (self.shared_steps * math.ceil(count / self.alike / size)
                      + (self.plan.steps - self.shared_steps) * math.ceil(count / size))
        shared = self._shared(range(0, count, self.alike)) if self.shared_steps else None
        return [self._chunk(slice(at, at + size), shared) for at in range(0, count, size)]

    def _shared(self, first_rows: range) -> torch.Tensor:
        """[P, C, H, W]: each prompt's state before the first random step."""
        states = []
        for rows in torch.tensor(first_rows).split(self.sampling.batch_size):
            x, index = self._start(self.samples.noise(rows)), self.samples.index[rows]
            for i in range(self.shared_steps):
                x = self._quiet(x, self._denoise(x, i, index), i)
            states.append(x)
        return torch.cat(states)

    def _chunk(self, rows: slice, shared: torch.Tensor | None) -> _Chunk:
        (first, end), noise, index = self.plan.noisy, self.samples.noise(rows), self.samples.index[rows]
        x = self._start(noise) if shared is None else shared[torch.arange(len(self.samples))[rows] // self.alike]
        states, log_probs, means = [], [], []
        for i in range(self.shared_steps, self.plan.steps):
            x0 = self._denoise(x, i, index)
            if not first <= i < end:
                x = self._quiet(x, x0, i)
                continue
            step = self.plan.noisy_step(self.net.path, x, x0, *self._levels(x, i))
            if i == first:
                states.append(x.cpu())
            x = sample(step, noise.next(self.shape).to(x.device))
            states.append(x.cpu())
            means.append(step.mean.cpu())
            log_probs.append(log_prob(x, step, TRANSITIONS[self.plan.transition].form).cpu())
        return _Chunk(x.cpu(), states, log_probs, means)

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


def _trajectory(chunks: list[_Chunk], plan: SamplingPlan) -> Trajectory | None:
    if plan.noisy == (0, 0):
        return None
    first, end = plan.noisy
    return Trajectory(
        states=torch.cat([torch.stack(c.states, 1) for c in chunks]),
        log_probs=torch.cat([torch.stack(c.log_probs, 1) for c in chunks]),
        means=torch.cat([torch.stack(c.means, 1) for c in chunks]),
        sigmas=plan.sigmas[first:end + 1], transition=plan.transition, strength=plan.strength)
