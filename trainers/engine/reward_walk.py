"""Sampling that gradient can pass: some samples walk from noise to image, and the reward judges where they arrive."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ...rewards.base import ranks
from ...rewards.base.reward import Reward, as_reward, counts_of, evaluate
from ...rewards.base.usable import blackened
from ...rewards.learned.holder import held_together
from ..losses.error import squared_error
from ..noise.streams import Stream, generator
from ..noise.transitions import sample
from ..policy.fitting import in_room
from ..policy.latents import LARGE, image_bytes, latent_shape, to_images_with_gradient
from ..policy.levels import sigmas_of
from ..policy.network import Network
from ..policy.room import with_room
from ..policy.scratch import mapped
from ..policy.uploads import uploaded
from ..policy.value import Bank, Policy
from ..prompts import PromptSet
from ..sampling.draws import Samples, prepared_samples
from ..sampling.plan import SamplingPlan, plan_of
from ..sampling.recommended import settled_sampling
from ..sampling.rollout import Progress, Rollout
from ..sampling.settings import AUTO, Sampling
from .update import SKIPPED, Evaluate, Optimizer, update

DIFFERENTIABLE = ("the colour statistics (but not clipped pixels), PickScore, HPS, CLIPScore, ImageReward, the aesthetic "
                  "score and the image classifiers")


@dataclass(frozen=True)
class Look:
    """Some samples of the step. update: number of the optimizer step that they belong to; part: which of several looks
    at the same samples."""

    rows: slice
    update: int = 0
    part: int = 0

    @property
    def size(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def together(self) -> int:
        """Looks at the same samples belong to one process: the later ones need what the first made."""
        return self.rows.start


class Course:
    """Everything that one step through the reward samples and scores; trainers decide where gradient is kept.

    sampling: as in a rollout, but transition "auto" without a noise level is deterministic, as in DRaFT's paper
    (AlignProp's code samples with eta 1: noise level 1); data: finished images for trainers with a pretraining term;
    progress: as in ``rollout``.
    Raises ValueError where the reward has no gradient or a setting does not fit.
    """

    def __init__(self, policy: Policy, prompts: PromptSet, vae, reward: Reward, sampling: Sampling, iteration: int, *,
                 data: Rollout | None = None, progress: Progress | None = None):
        reward = as_reward(reward)
        check_differentiable(reward)
        self.recommended, sampling = sampling.open, settled_sampling(policy, sampling)
        if sampling.transition == AUTO and not sampling.noise_level:
            sampling = replace(sampling, transition="deterministic")
        self.model, self.prompts, self.vae, self.reward = policy.model, prompts, vae, reward
        self.sampling, self.iteration, self.data, self.progress = sampling, iteration, data, progress
        self.samples = self._samples()
        self.shape = latent_shape(policy.model, vae, sampling.width, sampling.height)
        self.steps = len(sigmas_of(policy.model.get_model_object("model_sampling"), sampling.scheduler, sampling.steps)) - 1
        self._plan: SamplingPlan | None = None
        self._size = image_bytes(vae, (len(self.samples), *self.shape))
        self._images: dict[int, torch.Tensor] = {}
        self._rewards: dict[int, dict[str, torch.Tensor]] = {}

    def plan(self, net: Network) -> SamplingPlan:
        """The same for the whole step."""
        if self._plan is None:
            self._plan = plan_of(net, self.sampling, self.iteration)
        return self._plan

    def _samples(self) -> Samples:
        """This iteration's images, the encodings of their prompts and of those for ReFL's pretraining term at hand."""
        also = None
        if self.data is not None and self.data.prompts is self.prompts:
            also = self.data.index
        elif self.data is not None:
            self.data.prompts.prepare(self.data.index.unique())
        return prepared_samples(self.prompts, self.sampling, self.iteration, also)

    def looks(self, updates: int, parts: int = 1) -> list[list[Look]]:
        """Micro-batches of each optimizer step, every sample once, each at ``parts`` looks."""
        size, count = self.sampling.batch_size, len(self.samples)
        rows = [slice(at, min(at + size, count)) for at in range(0, count, size)]
        shares = [rows[k::updates] for k in range(min(updates, len(rows)))]
        return [[Look(r, number, part) for r in share for part in range(parts)] for number, share in enumerate(shares)]

    def train(self, policy: Policy, evaluate: Evaluate, optimizer: Optimizer, parts: int = 1) -> Policy:
        """See ``update``; every optimizer step samples its own images, with the policy as it is then."""
        with held_together(self.reward) as networks:
            new = update(policy, self.looks(optimizer.updates, parts), evaluate, optimizer,
                         also_load=[self.vae.patcher, *networks])
        self._rewards = {at: {name: v.cpu() for name, v in values.items()} for at, values in self._rewards.items()}
        self._images, self._rewards = (ranks.merged("images and rewards", noted) for noted in (self._images, self._rewards))
        return new

    def only_look(self, policy: Policy) -> Policy:
        """Samples and scores without training; the metrics say what came out."""
        def looked(net: Network) -> int:
            bank = net.to_device(policy.bank)
            for (look,) in self.looks(len(self.samples)):
                walk = Walk(self, net, bank, look)
                walk.go_to(self.steps)
                walk.rewards(walk.x)
            return net.evaluations

        with torch.no_grad():
            evaluations, room = in_room(policy, looked, also_load=[self.vae.patcher])
        return replace(policy, memory=with_room(policy.memory, room), metrics={
            "updates": 0, "skipped_updates": 0, SKIPPED: 0, "update_evaluations": evaluations})

    def draw(self, look: Look) -> torch.Generator:
        """For choices that all micro-batches of an optimizer step share, so that cutting a batch changes nothing."""
        return generator(self.sampling.seed, self.iteration, look.update, Stream.WALK_DRAW)

    def fresh_noise(self, look: Look) -> torch.Tensor:
        """[B, C, H, W]: a noise of its own for each sample and part."""
        return torch.stack([torch.randn(self.shape, generator=generator(int(seed), look.part, Stream.WALK_NOISE))
                            for seed in self.samples.seeds[look.rows]])

    def note(self, look: Look, images: torch.Tensor, values: dict[str, torch.Tensor]) -> None:
        """Keeps images and rewards for the step's report and preview; many images on the disk, as a rollout's."""
        self._images[look.rows.start] = self._put([images.detach().cpu()])
        self._rewards[look.rows.start] = {name: v.detach() for name, v in values.items()}  # read once the step is over

    @property
    def images(self) -> torch.Tensor:
        """[B, H, W, 3] in [0, 1]: what was judged in this step."""
        return self._put([self._images[at] for at in sorted(self._images)])

    def _put(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Images as one tensor, on the disk where the step has many."""
        if self._size > LARGE:
            return mapped(parts, sum(part.nbytes for part in parts), "images")
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def stats(self) -> dict[str, float]:
        """reward_mean, reward_std, failed (a count), and the mean of each member of a composite reward."""
        names = next(iter(self._rewards.values()))
        rewards = {name: torch.cat([self._rewards[at][name] for at in sorted(self._rewards)]).cpu().double() for name in names}
        means = {name: float(v[v.isfinite()].mean()) if bool(v.isfinite().any()) else float("nan")
                 for name, v in rewards.items()}
        total = rewards[""]
        known = total[total.isfinite()]
        return {"reward_mean": means.pop(""), "failed": float(len(total) - len(known)),
                "reward_std": float(known.std(correction=0)) if len(known) else 0.0, **counts_of(self.reward),
                **{f"reward/{name}": mean for name, mean in means.items()}}


class Walk:
    """One micro-batch on its way. x: [B, C, H, W], the state before step ``at``; noise: [B, C, H, W], its start."""

    def __init__(self, course: Course, net: Network, bank: Bank, look: Look):
        self.course, self.net, self.bank, self.look = course, net, bank, look
        self.plan = course.plan(net)
        self.index = course.samples.index[look.rows]
        self._noise = course.samples.noise(look.rows)
        self.noise = uploaded(self._noise.start(course.shape), net.device)
        self.x, self.at = net.start(self.noise, float(self.plan.sigmas[0])), 0

    def sigma(self, step: int) -> torch.Tensor:
        """[B]"""
        return uploaded(self.plan.sigmas[step], self.net.device).expand(self.look.size)

    def denoised(self, x: torch.Tensor | None = None, sigma: torch.Tensor | None = None) -> torch.Tensor:
        """The policy's clean estimate of ``x`` at ``sigma``; without them, of the present state."""
        return self._ask(self.x if x is None else x, self.sigma(self.at) if sigma is None else sigma, self.bank)

    def drift(self, x0: torch.Tensor) -> torch.Tensor:
        """[B]: squared difference of this clean estimate of the present state from the reference's, as predictions."""
        sigma, path = self.sigma(self.at), self.net.path
        reference = self._ask(self.x, sigma, None)  # the state depends on the policy too, so no gradient is cut here
        return squared_error(path.prediction(self.x, x0, sigma), path.prediction(self.x, reference, sigma))

    def move(self, x0: torch.Tensor) -> None:
        """One step on, given the clean estimate of the present state."""
        first, end = self.plan.noisy
        noisy = first <= self.at < end
        transition = self.plan.noisy_step if noisy else self.plan.quiet_step
        step = transition(self.net.path, self.x, x0, self.sigma(self.at), self.sigma(self.at + 1))
        self.x = sample(step, uploaded(self._noise.next(self.course.shape), self.x.device)) if noisy else step.mean
        self.at += 1

    def go_to(self, step: int, watch: Callable[[torch.Tensor], None] | None = None) -> None:
        """Walks on to the state before ``step``; watch: told each clean estimate on the way."""
        while self.at < step:
            x0 = self.denoised()
            if watch is not None:
                watch(x0)
            self.move(x0)

    def go_quietly_to(self, step: int) -> None:
        """The same, without gradient."""
        with torch.no_grad():
            self.go_to(step)

    def rewards(self, latents: torch.Tensor, *, note: bool = True) -> torch.Tensor:
        """[B] with gradient, NaN where the reward failed. note: these are the step's images."""
        images = self.images(latents)
        found = self.judged(images, [self.course.prompts.prompts[int(i)] for i in self.index])
        if note:
            self.course.note(self.look, images, found)
        return found[""]

    def images(self, latents: torch.Tensor) -> torch.Tensor:
        return to_images_with_gradient(self.course.model, self.course.vae, latents, recompute=self.net.recomputes)

    def judged(self, images: torch.Tensor, prompts: Sequence) -> dict[str, torch.Tensor]:
        """See ``judged``."""
        return judged(self.net, self.course.reward, images, prompts, self.index)

    def _ask(self, x, sigma, bank: Bank | None) -> torch.Tensor:
        course = self.course
        x0 = self.net.denoise(x, sigma, course.prompts, self.index, course.sampling.guidance, bank, recompute=True,
                              schedule=self.plan.sigmas)
        if course.progress is not None and bank is not None:
            done = self.look.rows.start * course.steps + (self.at + 1) * self.look.size
            course.progress(done, len(course.samples) * course.steps, x0[:1].detach())
        return x0


def judged(net: Network, reward: Reward, images: torch.Tensor, prompts: Sequence, index: torch.Tensor) -> dict[str, torch.Tensor]:
    """The reward of each image [B, H, W, 3] as "", and the members of a composite one by name: [B] each, with the images'
    gradient, NaN where it failed. index: the prompt of each by number."""
    usable, broken = blackened(images)
    found = evaluate(reward, usable, prompts, index)
    if found.values.shape != (len(images),):
        raise ValueError(f"reward: '{reward.info.name}' must answer one number per image: expected [{len(images)}], "
                         f"got {list(found.values.shape)}")
    if images.requires_grad and not found.values.requires_grad:
        raise ValueError(f"reward: '{reward.info.name}' says that it is differentiable, but its scores carry no "
                         "gradient; use another reward, or a trainer that needs none (Flow-GRPO, DiffusionNFT)")
    net.check_loaded("the reward")
    members = found.members if len(found.members) > 1 else {}
    return {name: v.to(net.device, torch.float32).masked_fill(broken, torch.nan)
            for name, v in {"": found.values, **members}.items()}


def known(values: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows whose value is a number, of each; all of them where none is, so that the update is seen to fail."""
    rows = values.isfinite().nonzero().flatten()  # the one wait for the device
    return tuple(v[rows] if len(rows) else v for v in (values, *others))


def check_differentiable(reward: Reward) -> None:
    if not reward.info.differentiable:
        raise ValueError(f"reward: '{reward.info.name}' has no gradient, which a trainer through the reward needs. "
                         f"Differentiable are {DIFFERENTIABLE}. For this reward use a trainer that needs no gradient of "
                         "it, such as Flow-GRPO or DiffusionNFT")


def checked_count(name: str, count: int, total: int) -> int:
    """``count`` of the ``total`` sampling steps; ValueError names the setting where it is not among them."""
    if not 1 <= count <= total:
        raise ValueError(f"{name}: {count} is not possible with {total} sampling steps; choose 1 to {total}, or more "
                         "sampling steps")
    return count
