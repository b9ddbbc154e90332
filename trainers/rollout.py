"""Rollout: samples images with the policy and keeps what a trainer needs."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .policy.latents import latent_shape, to_images
from .policy.network import Network, open_policy, sigmas_of
from .policy.value import Policy
from .prompts import PromptSet
from .sampling import Samples, Sampling, chosen_samples, noisy_range, resolved_transition
from .transitions import TRANSITIONS, deterministic, log_prob, sample, transition_named

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

    @property
    def steps(self) -> int:
        return self.log_probs.shape[1]


@dataclass(frozen=True)
class Rollout:
    """What sampling leaves behind, B samples.

    latents: [B, C, H, W] clean, in the model's own space; images: [B, H, W, 3] in [0, 1]; index: [B] the prompt of
    each sample in ``prompts``; seeds: [B]; guidance: the scale sampled with; sigmas: [steps + 1]; trajectory: None
    where no step was random; batch_size: images evaluated at once, which a trainer keeps so that its numbers are the
    same; iteration: of the run; evaluations: network calls on a sample.
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
    samples = chosen_samples(len(prompts), sampling, iteration)
    shape = latent_shape(policy.model, vae, sampling.width, sampling.height)
    with open_policy(policy) as net:
        plan = plan_of(net, sampling, iteration)
        chosen = policy.chosen(weights)
        bank = None if chosen is None else net.to_device(chosen)
        chunks = list(range(0, len(samples), sampling.batch_size))
        done: list[_Chunk] = []
        for number, at in enumerate(chunks):
            rows = slice(at, at + sampling.batch_size)
            report = None
            if progress is not None:
                def report(step, x0, number=number):
                    progress(number * sampling.steps + step, len(chunks) * sampling.steps, x0[:1])
            done.append(_sample_chunk(net, bank, prompts, samples, rows, shape, sampling, plan, report))
        evaluations = net.evaluations
    latents = torch.cat([c.latents for c in done])
    return Rollout(latents=latents, images=to_images(policy.model, vae, latents), prompts=prompts, index=samples.index,
                   seeds=samples.seeds, guidance=sampling.guidance, sigmas=plan.sigmas, trajectory=_trajectory(done, plan),
                   batch_size=sampling.batch_size, iteration=iteration, evaluations=evaluations)


@torch.inference_mode(False)
@torch.no_grad()
def rollout_from_latents(policy: Policy, latents: torch.Tensor, prompts: PromptSet, vae, prompt_number: int,
                         guidance: float = 1.0) -> Rollout:
    """A Rollout without trajectory out of model-space latents [B, C, H, W] that some sampler made.

    prompt_number: the prompt of all of them, counted from 1; 0 divides the batch evenly among the prompts in order.
    """
    count = len(latents)
    if prompt_number > len(prompts):
        raise ValueError(f"prompt number: {prompt_number}, but there are {len(prompts)} prompts")
    if prompt_number == 0 and count % len(prompts):
        raise ValueError(f"latent: {count} latents cannot be divided evenly among {len(prompts)} prompts; set the prompt "
                         "number, or sample equally many for each")
    index = (torch.full((count,), prompt_number - 1) if prompt_number
             else torch.arange(len(prompts)).repeat_interleave(count // len(prompts)))
    return Rollout(latents=latents, images=to_images(policy.model, vae, latents), prompts=prompts, index=index,
                   seeds=torch.arange(count), guidance=guidance, trajectory=None, batch_size=min(count, 4),
                   sigmas=sigmas_of(policy.model.get_model_object("model_sampling"), "simple", 20))


@dataclass(frozen=True)
class Plan:
    """The steps of a sampler. sigmas: [steps + 1]; noisy: (first, end) of the random ones; transition, strength: their
    kind; noisy_step, quiet_step: the transitions themselves."""

    sigmas: torch.Tensor
    noisy: tuple[int, int]
    transition: str
    strength: float
    noisy_step: Callable
    quiet_step: Callable


@dataclass(frozen=True)
class _Chunk:
    latents: torch.Tensor
    states: list[torch.Tensor]
    log_probs: list[torch.Tensor]
    means: list[torch.Tensor]


def plan_of(net: Network, sampling: Sampling, iteration: int) -> Plan:
    """Which step is taken how, in this iteration."""
    name, strength = resolved_transition(sampling, net.path.name)
    step = transition_named(name, strength, net.path)
    quiet = name == "deterministic" or strength == 0
    noisy = (0, 0) if quiet else noisy_range(sampling, iteration)
    return Plan(net.sigmas(sampling.scheduler, sampling.steps), noisy, name, strength, step, deterministic())


def _sample_chunk(net: Network, bank, prompts, samples: Samples, rows: slice, shape, sampling: Sampling, plan: Plan,
                  report) -> _Chunk:
    (first, end), noise, index = plan.noisy, samples.noise(rows), samples.index[rows]
    x = net.start(noise.start(shape).to(net.device), float(plan.sigmas[0]))
    states, log_probs, means = [], [], []
    for i in range(sampling.steps):
        net.check_cancelled()
        sigma, sigma_next = (plan.sigmas[k].to(x.device).expand(len(x)) for k in (i, i + 1))
        x0 = net.denoise(x, sigma, prompts, index, sampling.guidance, bank)
        if first <= i < end:
            step = plan.noisy_step(net.path, x, x0, sigma, sigma_next)
            if i == first:
                states.append(x.cpu())
            x = sample(step, noise.next(shape).to(x.device))
            states.append(x.cpu())
            means.append(step.mean.cpu())
            log_probs.append(log_prob(x, step, TRANSITIONS[plan.transition].form).cpu())
        else:
            x = plan.quiet_step(net.path, x, x0, sigma, sigma_next).mean
        if report is not None:
            report(i + 1, x0)
    return _Chunk(x.cpu(), states, log_probs, means)


def _trajectory(chunks: list[_Chunk], plan: Plan) -> Trajectory | None:
    if plan.noisy == (0, 0):
        return None
    first, end = plan.noisy
    return Trajectory(
        states=torch.cat([torch.stack(c.states, 1) for c in chunks]),
        log_probs=torch.cat([torch.stack(c.log_probs, 1) for c in chunks]),
        means=torch.cat([torch.stack(c.means, 1) for c in chunks]),
        sigmas=plan.sigmas[first:end + 1], transition=plan.transition, strength=plan.strength)
