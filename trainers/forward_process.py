"""Trainers that need no trajectory: finished latents are noised again and the policy is asked to denoise them.

They take a rollout of any sampler: only its latents, prompts and scores count. DiffusionNFT, AWM, DGPO, RWR.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .advantages import Advantages
from .limits import ABOVE_0, BELOW_1, FROM_0, FROM_0_TO_1, FROM_1
from .losses.awm import awm_loss, matching_log_prob
from .losses.dgpo import dgpo_loss, gate, group_weights
from .losses.error import squared_error
from .losses.nft import nft_loss, old_policy_decay
from .losses.rwr import rwr_loss, softmax_weights, sparse_weights
from .policy.network import Network
from .policy.value import Bank, Policy
from .rollout import Rollout
from .sampling import generator
from .update import Optimizer, update

OLD, FOLLOWER = "old", "follower"
ADVANTAGE_CLIP = 5.0


@dataclass(frozen=True)
class NFT:
    """DiffusionNFT (arXiv:2509.16117). beta: how far the mirrored policies lie apart; levels: noise levels per image;
    kl_weight: pull to the reference; old_*: how slowly the policy that samples follows, see old_policy_decay."""

    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "levels": FROM_1, "kl_weight": FROM_0, "old_start": FROM_0,
                              "old_rate": FROM_0, "old_ceiling": FROM_0_TO_1}
    beta: float = 1.0
    levels: int = 4
    kl_weight: float = 1e-4
    old_start: int = 0
    old_rate: float = 1e-3
    old_ceiling: float = 0.5


@dataclass(frozen=True)
class AWM:
    """Advantage weighted matching (arXiv:2509.25050). ema_beta: pull to a copy that follows within a few iterations;
    beta: pull to the reference."""

    LIMITS: ClassVar[dict] = {"clip_range": ABOVE_0, "ema_beta": FROM_0, "beta": FROM_0, "levels": FROM_1,
                              "ema_ceiling": BELOW_1}
    weighting: str = "ghuber"
    clip_range: float = 1.0
    ema_beta: float = 1.0
    beta: float = 1e-3
    levels: int = 6
    ema_ceiling: float = 0.3


@dataclass(frozen=True)
class DGPO:
    """DGPO (arXiv:2510.08425). beta: sharpness of the group preference; clip_range: gate, 0 is off."""

    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "clip_range": FROM_0, "kl_weight": FROM_0, "levels": FROM_1}
    beta: float = 100.0
    clip_range: float = 1e-3
    kl_weight: float = 1e-3
    levels: int = 4


@dataclass(frozen=True)
class RWR:
    """Reward-weighted regression (arXiv:2305.13301). sharpness: inverse temperature on the raw reward; among: "each
    prompt", "all images" or "best tenth only"."""

    LIMITS: ClassVar[dict] = {"sharpness": FROM_0, "levels": FROM_1}
    sharpness: float = 5.0
    among: str = "each prompt"
    levels: int = 4


@dataclass(frozen=True)
class Noised:
    """Some samples, each at a noise level of its own. first: no optimizer step was made since the rollout."""

    rows: torch.Tensor
    sigma: torch.Tensor
    noise: torch.Tensor
    first: bool

    @property
    def size(self) -> int:
        return len(self.rows)


class Question:
    """One micro-batch put to the network: data noised to x; ``ask(bank)`` is the denoised answer."""

    def __init__(self, net: Network, rollout: Rollout, micro: Noised):
        self.net, self.rollout, self.micro = net, rollout, micro
        self.data = rollout.latents[micro.rows].to(net.device)
        self.sigma = micro.sigma.to(net.device)
        noise = micro.noise.to(net.device)
        self.x = net.path.add_noise(self.data, noise, self.sigma)
        self.target = net.path.target(self.data, noise, self.sigma)

    def ask(self, bank: Bank | None, guidance: float = 1.0) -> torch.Tensor:
        index = self.rollout.index[self.micro.rows]
        return self.net.denoise(self.x, self.sigma, self.rollout.prompts, index, guidance, bank,
                                schedule=self.rollout.sigmas)

    def ask_quietly(self, bank: Bank | None) -> torch.Tensor:
        with torch.no_grad():
            return self.ask(bank)

    def prediction(self, x0: torch.Tensor) -> torch.Tensor:
        return self.net.path.prediction(self.x, x0, self.sigma)

    def error(self, x0: torch.Tensor) -> torch.Tensor:
        """[B]: squared error in the network's own prediction."""
        return squared_error(self.prediction(x0), self.target)

    def distance(self, x0: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """[B]: squared difference of two answers in the network's own prediction."""
        return squared_error(self.prediction(x0), self.prediction(other))

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """The micro-batch's rows of per-sample numbers, where and how the network computes."""
        return values[self.micro.rows].to(self.net.device, torch.float32)


def noised(rollout: Rollout, used: torch.Tensor, levels: int, updates: int, batch_size: int, *,
           by_group: bool = False, grid: torch.Tensor | None = None) -> list[list[Noised]]:
    """Micro-batches of each update over the used rows, each sample at ``levels`` noise levels of a grid.

    The grid is cut into equal parts and one level drawn from each. grid: [N] noise levels; without it the sampler's, but
    for the last step's level, where there is almost no noise. by_group: whole prompts in a micro-batch, sharing level
    and noise (a micro-batch may then be larger than ``batch_size``).
    """
    check_levels(levels)
    key = (rollout.iteration, int(rollout.seeds[0]))
    bundles = _bundles(rollout, used, batch_size, by_group, generator(*key, 6))
    parts = [bundles[k::updates] for k in range(min(updates, len(bundles)))]
    grid = sampled_levels(rollout) if grid is None else grid
    return [[_noised(rollout, grid, rows, level, levels, by_group, first=number == 0)
             for rows in part for level in range(levels)] for number, part in enumerate(parts)]


def _bundles(rollout: Rollout, used, batch_size: int, by_group: bool, random) -> list[torch.Tensor]:
    rows = used.nonzero().flatten()
    if not by_group:
        return list(rows[torch.randperm(len(rows), generator=random)].split(batch_size))
    groups = [rows[rollout.index[rows] == group] for group in rollout.index[rows].unique()]
    bundles: list[list[torch.Tensor]] = [[]]
    for place in torch.randperm(len(groups), generator=random).tolist():
        if bundles[-1] and sum(map(len, bundles[-1])) + len(groups[place]) > batch_size:
            bundles.append([])
        bundles[-1].append(groups[place])
    return [torch.cat(bundle) for bundle in bundles]


def _noised(rollout: Rollout, grid, rows, level: int, levels: int, by_group: bool, first: bool) -> Noised:
    sigmas, noises = [], []
    for row in rows.tolist():
        sample = int(rollout.index[row]) if by_group else int(rollout.seeds[row])
        sigma, noise = drawn(rollout, grid, level, levels, generator(rollout.iteration, sample, level, 7))
        sigmas.append(sigma)
        noises.append(noise)
    return Noised(rows, torch.stack(sigmas), torch.stack(noises), first)


def sampled_levels(rollout: Rollout) -> torch.Tensor:
    """[N]: the sampler's noise levels, but for the last step's; with very few steps all of them."""
    return rollout.sigmas[:-1] if len(rollout.sigmas) < 4 else rollout.sigmas[:-2]


def drawn(rollout: Rollout, grid: torch.Tensor, level: int, levels: int, random: torch.Generator
          ) -> tuple[torch.Tensor, torch.Tensor]:
    """(sigma, noise [C, H, W]): a noise level out of part ``level`` of the grid cut into ``levels`` parts."""
    place = (level + float(torch.rand((), generator=random))) / levels * len(grid)
    return grid[min(int(place), len(grid) - 1)], torch.randn(rollout.latents.shape[1:], generator=random)


def train_nft(policy: Policy, rollout: Rollout, advantages: Advantages, settings: NFT, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """A DiffusionNFT step. Evaluations per image and level: 1 with gradient, 1 for the old policy where it differs from
    the one in training, 1 for the reference where kl_weight is above 0."""
    steps = noised(rollout, advantages.weight, settings.levels, optimizer.updates, rollout.batch_size)
    behaviour = policy.chosen("behaviour")

    def evaluate(net, bank, micro):
        question = Question(net, rollout, micro)
        x0 = question.ask(bank)
        on_policy = micro.first and OLD not in policy.anchors
        old = x0.detach() if on_policy else question.ask_quietly(net.anchor(behaviour))
        kl = question.distance(x0, question.ask_quietly(None)) if settings.kl_weight else None
        out = nft_loss(x0, old, question.data, question.of(advantages.values), settings.beta, ADVANTAGE_CLIP, kl,
                       settings.kl_weight)
        return out.loss, numbers(policy_loss=out.policy_loss, **({"kl": out.kl} if settings.kl_weight else {}))

    new = update(policy, steps, evaluate, optimizer, progress=progress)
    decay = old_policy_decay(policy.iteration, settings.old_start, settings.old_rate, settings.old_ceiling)
    return _with_anchor(new, OLD, behaviour, decay)


def train_awm(policy: Policy, rollout: Rollout, advantages: Advantages, settings: AWM, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """An AWM step. The copy that ema_beta pulls to follows once per train step, after its updates."""
    steps = noised(rollout, advantages.weight, settings.levels, optimizer.updates, rollout.batch_size)
    before, follower = policy.bank, policy.anchors.get(FOLLOWER)

    def evaluate(net, bank, micro):
        question = Question(net, rollout, micro)
        x0 = question.ask(bank)
        t = question.sigma if net.path.name == "flow" else question.sigma / (1 + question.sigma)
        log_p = matching_log_prob(question.error(x0), t, settings.weighting)
        old = log_p.detach() if micro.first else matching_log_prob(
            question.error(question.ask_quietly(net.anchor(before))), t, settings.weighting)
        pulls = {}
        if settings.ema_beta and follower is not None:
            pulls |= {"ema_kl": question.distance(x0, question.ask_quietly(net.anchor(follower)))}
        if settings.beta:
            pulls |= {"kl": question.distance(x0, question.ask_quietly(None))}
        out = awm_loss(log_p, old, question.of(advantages.values) / ADVANTAGE_CLIP, settings.clip_range,
                       ema_beta=settings.ema_beta if "ema_kl" in pulls else 0.0, beta=settings.beta, **pulls)
        return out.loss, numbers(policy_loss=out.policy_loss, clip_fraction=out.clip_fraction,
                                 **({"kl": out.kl} if settings.beta else {}))

    new = update(policy, steps, evaluate, optimizer, progress=progress)
    return _with_anchor(new, FOLLOWER, follower or policy.bank, min(settings.ema_ceiling, 1e-3 * policy.iteration))


def train_dgpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: DGPO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A DGPO step: whole groups share noise and level. Evaluations per image and level: 1 with gradient, 1 reference,
    and 1 of the policy before this step where the gate is on and an optimizer step was made since."""
    steps = noised(rollout, advantages.weight, settings.levels, optimizer.updates, rollout.batch_size, by_group=True)
    before = policy.bank

    def evaluate(net, bank, micro):
        question = Question(net, rollout, micro)
        x0, reference = question.ask(bank), question.ask_quietly(None)
        error, advantage = question.error(x0), question.of(advantages.values)
        weights = group_weights(error, question.error(reference), advantage,
                                rollout.index[micro.rows].to(error.device), settings.beta)
        gated = None
        if settings.clip_range and not micro.first:
            old = question.error(question.ask_quietly(net.anchor(before)))
            gated = gate(error, old, advantage, settings.clip_range)
        out = dgpo_loss(error, advantage, weights, gated, question.distance(x0, reference), settings.kl_weight)
        return out.loss, numbers(policy_loss=out.policy_loss, kl=out.kl, clip_fraction=out.gated_fraction)

    return update(policy, steps, evaluate, optimizer, progress=progress)


def train_rwr(policy: Policy, rollout: Rollout, advantages: Advantages, settings: RWR, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """A step of reward-weighted regression on the rollout's own images."""
    rewards = advantages.rewards
    if settings.among == "each prompt":
        weights = softmax_weights(rewards, settings.sharpness, rollout.index)
    elif settings.among == "all images":
        weights = softmax_weights(rewards, settings.sharpness)
    elif settings.among == "best tenth only":
        weights = sparse_weights(rewards)
    else:
        raise ValueError(f"among: unknown {settings.among!r}; use each prompt, all images or best tenth only")
    used = rewards.isfinite() & (weights > 0)
    # images of no weight are left out, but the loss is a mean over all
    weights = weights * (used.sum() / rewards.isfinite().sum())
    steps = noised(rollout, used, settings.levels, optimizer.updates, rollout.batch_size)

    def evaluate(net, bank, micro):
        question = Question(net, rollout, micro)
        out = rwr_loss(question.error(question.ask(bank)), question.of(weights))
        return out.loss, numbers(denoising_error=out.error)

    return update(policy, steps, evaluate, optimizer, progress=progress)


def _with_anchor(policy: Policy, name: str, anchor: Bank, decay: float) -> Policy:
    """anchor <- decay anchor + (1 - decay) policy; at decay 0 none is kept, it would equal the policy."""
    if decay <= 0:
        return replace(policy, anchors={k: v for k, v in policy.anchors.items() if k != name})
    moved = {key: value.lerp(policy.bank[key], 1 - decay) for key, value in anchor.items()}
    return replace(policy, anchors={**policy.anchors, name: moved})


def numbers(**values) -> dict[str, float]:
    """A micro-batch's report."""
    return {key: float(torch.as_tensor(value).detach()) for key, value in values.items()}


def check_levels(levels: int) -> None:
    if levels < 1:
        raise ValueError(f"levels: {levels} is not possible; choose 1 or more")
