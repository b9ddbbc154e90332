"""Finished latents, noised again and put to the network: what every trainer without a trajectory shares.

They take a rollout of any sampler: only its latents, prompts and scores count. Both images of a pair are noised alike, to
the same level with the same noise.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from ...rewards.base.words import brief
from ..feedback.pairs import Preferences
from ..losses.error import squared_error
from ..losses.sdpo import loser_scale, scale_gradient
from ..noise.streams import Stream, generator
from ..policy.levels import sigmas_of
from ..policy.network import Network
from ..policy.uploads import uploaded
from ..policy.value import Bank, Policy
from ..sampling.rollout import Rollout
from .dealt import dealt

ADVANTAGE_CLIP = 5.0


@dataclass(frozen=True)
class Noised:
    """Some samples, each at a noise level of its own. first: no optimizer step was made since the rollout; no_prompt: [n] bool,
    those that are learned without their prompt."""

    rows: torch.Tensor
    sigma: torch.Tensor
    noise: torch.Tensor
    first: bool
    no_prompt: torch.Tensor | None = None
    __repr__ = brief

    @property
    def size(self) -> int:
        return len(self.rows)


class Renoised:
    """One micro-batch put to the network: data noised to x; ``ask(bank)`` is the denoised answer."""

    def __init__(self, net: Network, rollout: Rollout, micro: Noised):
        self.net, self.rollout, self.micro = net, rollout, micro
        self.data = uploaded(rollout.latents[micro.rows], net.device)
        self.sigma = uploaded(micro.sigma, net.device)
        noise = uploaded(micro.noise, net.device)
        self.x = net.path.add_noise(self.data, noise, self.sigma)
        self.target = net.path.target(self.data, noise, self.sigma)

    def ask(self, bank: Bank | None, guidance: float = 1.0) -> torch.Tensor:
        index = self.rollout.index[self.micro.rows]
        if self.micro.no_prompt is not None:
            index = index.where(~self.micro.no_prompt, self.rollout.prompts.empty_of(index))
        return self.net.denoise(self.x, self.sigma, self.rollout.prompts, index, guidance, bank,
                                schedule=self.rollout.sigmas)

    def ask_quietly(self, bank: Bank | None, guidance: float = 1.0) -> torch.Tensor:
        with torch.no_grad():
            return self.ask(bank, guidance)

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
        return uploaded(values[self.micro.rows], self.net.device, torch.float32)


def noised(rollout: Rollout, used: torch.Tensor, levels: int, updates: int, batch_size: int, *,
           by_group: bool = False, grid: torch.Tensor | None = None, empty_prompts: float = 0.0) -> list[list[Noised]]:
    """Micro-batches of each update over the used rows, each sample at ``levels`` noise levels of a grid.

    The grid is cut into equal parts and one level drawn from each. grid: [N] noise levels; without it the sampler's, but
    for the last step's level, where there is almost no noise. by_group: whole prompts in a micro-batch (which may then be
    larger than ``batch_size``); a prompt's images share their noise, and all prompts the levels. empty_prompts: the share of
    images that are learned without their prompt; the rollout is then one of ``with_empty_prompt``.
    """
    check_levels(levels)
    key = (rollout.iteration, int(rollout.seeds[0]))
    cut = partial(_whole_prompts, rollout.index, batch_size) if by_group else batch_size
    parts = dealt(_shuffled(rollout, used, by_group, generator(*key, Stream.RENOISE_ORDER)), updates, cut, rollout)
    grid = sampled_levels(rollout) if grid is None else grid
    return [[_without_prompt(_noised(rollout, grid, rows, level, levels, by_group, first=number == 0), rollout, empty_prompts,
                             [(int(rollout.seeds[row]), level) for row in rows])
             for rows in part for level in range(levels)] for number, part in enumerate(parts)]


def with_empty_prompt(rollout: Rollout, share: float) -> Rollout:
    """The same with the negative prompt among its prompts, see ``PromptSet.with_empty``: classifier-free guidance
    (arXiv:2207.12598) needs a network that knows images without their prompts, too. ValueError where none is encoded.
    share: of the images that are learned so; with 0 nothing is added."""
    if not share:
        return rollout
    known = rollout.prompts.with_empty()
    if known is None:
        raise ValueError("empty prompts: a share of the images is learned with the negative prompt, but none is encoded; encode "
                         "the prompts with a negative prompt (it may be empty), or set empty prompts to 0")
    return replace(rollout, prompts=known)


def _without_prompt(micro: Noised, rollout: Rollout, share: float, keys: list[tuple]) -> Noised:
    """keys: what each draw belongs to; twice as many rows are pairs, of which both images lose their prompt."""
    if share <= 0:
        return micro
    drawn = [float(torch.rand((), generator=generator(rollout.iteration, *key, Stream.EMPTY_PROMPT))) for key in keys]
    chosen = torch.tensor(drawn) < share
    return replace(micro, no_prompt=chosen.repeat(len(micro.rows) // len(chosen)))


def _shuffled(rollout: Rollout, used, by_group: bool, random) -> torch.Tensor:
    """The used rows in random order, or in that of whole prompts."""
    rows = used.nonzero().flatten()
    if not by_group:
        return rows[torch.randperm(len(rows), generator=random)]
    groups = [rows[rollout.index[rows] == group] for group in rollout.index[rows].unique()]
    return torch.cat([groups[place] for place in torch.randperm(len(groups), generator=random).tolist()] or [rows])


def _whole_prompts(index: torch.Tensor, batch_size: int, rows: torch.Tensor) -> list[torch.Tensor]:
    """Micro-batches of rows whose prompts' follow each other; a prompt's stay together, even if they are more than batch_size."""
    bundles: list[list[torch.Tensor]] = [[]]
    for group in rows.split(index[rows].unique_consecutive(return_counts=True)[1].tolist()):
        if bundles[-1] and sum(map(len, bundles[-1])) + len(group) > batch_size:
            bundles.append([])
        bundles[-1].append(group)
    return [torch.cat(bundle) for bundle in bundles if bundle]


def _noised(rollout: Rollout, grid, rows, level: int, levels: int, by_group: bool, first: bool) -> Noised:
    sigmas, noises = [], []
    key = (rollout.iteration, int(rollout.seeds[0]), level, Stream.SHARED_LEVEL)
    shared = level_of_part(grid, level, levels, generator(*key)) if by_group else None
    for row in rows.tolist():
        sample = int(rollout.index[row]) if by_group else int(rollout.seeds[row])
        sigma, noise = drawn(rollout, grid, level, levels, generator(rollout.iteration, sample, level, Stream.RENOISE_DRAW))
        sigmas.append(sigma if shared is None else shared)
        noises.append(noise)
    return Noised(rows, torch.stack(sigmas), torch.stack(noises), first)


def sampled_levels(rollout: Rollout) -> torch.Tensor:
    """[N]: the sampler's noise levels, but for the last step's; with very few steps all of them."""
    return rollout.sigmas[:-1] if len(rollout.sigmas) < 4 else rollout.sigmas[:-2]


def without_pure_noise(levels: torch.Tensor) -> torch.Tensor:
    """[N - 1]: the levels but for the first, at which nothing of the image is left; one level alone stays."""
    return levels[1:] if len(levels) > 1 else levels


def drawn(rollout: Rollout, grid: torch.Tensor, level: int, levels: int, random: torch.Generator
          ) -> tuple[torch.Tensor, torch.Tensor]:
    """(sigma, noise [C, H, W]): a noise level as ``level_of_part`` has it, and noise of a latent's shape."""
    return level_of_part(grid, level, levels, random), torch.randn(rollout.latents.shape[1:], generator=random)


def level_of_part(grid: torch.Tensor, level: int, levels: int, random: torch.Generator) -> torch.Tensor:
    """A noise level out of part ``level`` of the grid cut into ``levels`` parts."""
    place = (level + float(torch.rand((), generator=random))) / levels * len(grid)
    return grid[min(int(place), len(grid) - 1)]


def with_anchor(policy: Policy, name: str, anchor: Bank, decay: float) -> Policy:
    """anchor <- decay anchor + (1 - decay) policy; at decay 0 none is kept, it would equal the policy."""
    if decay <= 0:
        return replace(policy, anchors={k: v for k, v in policy.anchors.items() if k != name})
    moved = {key: value.lerp(policy.bank[key], 1 - decay) for key, value in anchor.items()}
    return replace(policy, anchors={**policy.anchors, name: moved})


def check_levels(levels: int) -> None:
    if levels < 1:
        raise ValueError(f"levels: {levels} is not possible; choose 1 or more")


def paired(rollout: Rollout, preferences: Preferences, levels: int, updates: int, empty_prompts: float = 0.0
           ) -> list[list[Noised]]:
    """Micro-batches of each update over the pairs in random order, each pair at ``levels`` noise levels.

    The rows of a micro-batch are its winners and then, in the same order, its losers; a pair shares level and noise, and
    whether it is learned without its prompt. empty_prompts: see ``noised``.
    """
    check_levels(levels)
    random = generator(rollout.iteration, int(rollout.seeds[0]), Stream.PAIR_ORDER)
    order = torch.randperm(len(preferences.winner), generator=random)
    parts = dealt(order, updates, max(1, rollout.batch_size // 2), rollout, of=preferences.winner)
    return [[_noised_pairs(rollout, preferences, pairs, level, levels, empty_prompts, first=number == 0)
             for pairs in part for level in range(levels)] for number, part in enumerate(parts)]


def _noised_pairs(rollout: Rollout, preferences: Preferences, pairs: torch.Tensor, level: int, levels: int,
                  empty_prompts: float, first: bool) -> Noised:
    winner, loser = preferences.winner[pairs], preferences.loser[pairs]
    seeds, grid = rollout.seeds, sampled_levels(rollout)
    keys = [(int(seeds[w]), int(seeds[l]), level) for w, l in zip(winner, loser)]
    draws = [drawn(rollout, grid, level, levels, generator(rollout.iteration, *key, Stream.PAIR_DRAW)) for key in keys]
    sigma, noise = (torch.stack(values) for values in zip(*draws))
    micro = Noised(torch.cat([winner, loser]), torch.cat([sigma, sigma]), torch.cat([noise, noise]), first)
    return _without_prompt(micro, rollout, empty_prompts, keys)


def pair_errors(renoised: Renoised, x0: torch.Tensor, safeguard: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """[P] winners' and [P] losers' errors; with a safeguard the losers' gradient is scaled down where it must be."""
    winner, loser = renoised.error(x0).chunk(2)
    if safeguard is None:
        return winner, loser
    (w, l), (w_target, l_target) = renoised.prediction(x0).chunk(2), renoised.target.chunk(2)
    return winner, scale_gradient(loser, loser_scale(w, w_target, l, l_target, safeguard))


def finite_latents(rollout: Rollout) -> torch.Tensor:
    """[B] bool: images whose latents are numbers. A sampler or a VAE in half precision may have overflowed."""
    return rollout.latents.isfinite().flatten(1).all(1)


def usable(rollout: Rollout) -> torch.Tensor:
    """[B] bool: the images with finite latents; all where there are none, so that the update is seen to fail."""
    good = finite_latents(rollout)
    return good if bool(good.any()) else torch.ones_like(good)


def teacher_grid(policy: Policy, steps: int) -> torch.Tensor:
    """[steps + 1] noise levels of the teacher's sampler, evenly spaced in time, the last 0."""
    return sigmas_of(policy.model.get_model_object("model_sampling"), "simple", steps)
