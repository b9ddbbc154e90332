"""Step rewards: a small head on the user's own frozen network that judges noisy latents, without decoding them.

After LPO (arXiv:2502.01051): a diffusion model that follows prompts has learned to look at noisy latents. The head is
trained on pairs of states of the same prompt and noise level with the Bradley-Terry loss.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...rewards.base.reward import Scores, summary
from ...rewards.base.words import brief
from ..engine.renoise import check_levels
from ..feedback.pairs import Preferences
from ..losses.bradley_terry import choice_loss
from ..noise.paths import Path, noise_share, sigma_at
from ..noise.streams import Stream, generator
from ..policy.features import block_features, feature_blocks
from ..policy.network import Network, open_policy
from ..policy.value import Bank, Policy
from ..policy.weights import outside_inference
from ..prompts import PromptSet
from ..sampling.rollout import Rollout, for_autograd
from .head import TRAINED, head, head_inputs, new_head

BATCH, RATE, DECAY = 256, 1e-3, 1.0
NOISE, SCORED_AT = (0.05, 0.9), (0.1, 0.4)  # shares of noise: trained on, and used for finished images
HELD_OUT = 0.2  # share of the prompts that the accuracy is measured on


@dataclass(frozen=True)
class States:
    """Noisy latents that are compared with each other.

    x: [N, C, H, W] at the noise level sigma [N]; index: [N] the prompt of each; winner, loser: [P] numbers of states of
    one prompt at one level.
    """

    x: torch.Tensor
    sigma: torch.Tensor
    index: torch.Tensor
    winner: torch.Tensor
    loser: torch.Tensor
    __repr__ = brief


@dataclass(frozen=True)
class StepReward:
    """A trained head. blocks: where its features come from; weights: of the head, float32 in RAM; accuracy: share of
    held-out pairs that it orders right, over all and by noise ("little", "some", "much"; NaN: no such pair)."""

    blocks: tuple[str, ...]
    weights: Bank
    accuracy: dict[str, float]
    pairs: int
    __repr__ = brief

    def scores(self, net: Network, x: torch.Tensor, sigma: torch.Tensor, prompts: PromptSet, index) -> torch.Tensor:
        """[B] float32 on the CPU, higher = better; comparable for states of the same prompt and noise level only."""
        features = block_features(net, self.blocks, x, sigma, prompts, index)
        return head(self.weights, head_inputs(features, noise_share(net.path, sigma)).cpu())

    def summary(self) -> str:
        if self.accuracy["all"] != self.accuracy["all"]:
            return f"trained on {self.pairs} pairs; its accuracy is not known, since there is one prompt only"
        by_noise = ", ".join(f"{kind} noise {share:.0%}" for kind, share in self.accuracy.items()
                             if kind != "all" and share == share)
        return (f"orders {self.accuracy['all']:.0%} of the pairs right on prompts that it was not trained on ({by_noise}; "
                f"chance is 50%); trained on {self.pairs} pairs")


def noised_alike(rollout: Rollout, rows: torch.Tensor, path: Path, least: float, most: float, key: int
                 ) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, sigma) of some finished latents, noised to a share between least and most; a prompt's share all of it."""
    index, draws = rollout.index[rows], {}
    for i in index.unique().tolist():
        random = generator(rollout.iteration, i, key, Stream.JUDGED_NOISE)
        share = least + (most - least) * torch.rand((), generator=random)
        draws[i] = sigma_at(path, share), torch.randn(rollout.latents.shape[1:], generator=random)
    sigma, noise = (torch.stack([draws[i][part] for i in index.tolist()]) for part in (0, 1))
    return path.add_noise(rollout.latents[rows], noise, sigma), sigma


def noised_states(rollout: Rollout, preferences: Preferences, path: Path, levels: int) -> States:
    """The pairs' finished images, noised again to ``levels`` levels; images of a prompt share level and noise."""
    check_levels(levels)
    check_some(preferences.winner)
    used = torch.cat([preferences.winner, preferences.loser]).unique()
    place = torch.full((len(rollout.index),), -1)
    place[used] = torch.arange(len(used))
    low, high = NOISE
    edges = [low + (high - low) * k / levels for k in range(levels + 1)]
    parts = [noised_alike(rollout, used, path, *edges[level:level + 2], level) for level in range(levels)]
    x, sigma = (torch.cat(values) for values in zip(*parts))
    shift = torch.arange(levels)[:, None] * len(used)
    return States(x, sigma, rollout.index[used].repeat(levels), (place[preferences.winner] + shift).flatten(),
                  (place[preferences.loser] + shift).flatten())


def check_some(winner: torch.Tensor) -> None:
    if not len(winner):
        raise ValueError("preferences: there is no pair to train on; the scores of each prompt's images are all equal or "
                         "failed. Use more images per prompt")


@torch.inference_mode(False)
@torch.no_grad()
def train_step_reward(policy: Policy, rollout: Rollout, states: Callable[[Path], States], rounds: int = 10, *,
                      progress: Callable[[int, int], None] | None = None) -> StepReward:
    """A step reward trained on the states that ``states(path)`` gives, by the frozen network under ``policy``.

    rollout: names prompts and how many states to evaluate at once. A fifth of the prompts is held out for the accuracy.
    Costs one evaluation of the network (of its first part) per state; the head itself costs next to nothing.
    """
    if rounds < 1:
        raise ValueError(f"rounds: {rounds} is not possible; choose 1 or more")
    rollout = for_autograd(rollout)
    with open_policy(policy) as net:
        given = outside_inference(states(net.path))
        check_some(given.winner)
        blocks, parts = feature_blocks(net), []
        bundles = torch.arange(len(given.x)).split(rollout.batch_size)
        for number, rows in enumerate(bundles):
            net.check_cancelled()
            parts.append(block_features(net, blocks, given.x[rows].to(net.device), given.sigma[rows].to(net.device),
                                        rollout.prompts, given.index[rows]).cpu())
            if progress is not None:
                progress(number + 1, len(bundles))
        share = noise_share(net.path, given.sigma)
    inputs = head_inputs(torch.cat(parts), share)
    held_out = _held_out(given, rollout)
    weights = _trained_head(inputs, given.winner[~held_out], given.loser[~held_out], rounds)
    return StepReward(blocks, weights, _accuracy(weights, inputs, share, given, held_out), int((~held_out).sum()))


def _held_out(states: States, rollout: Rollout) -> torch.Tensor:
    """[P] bool: pairs of the prompts that are kept for measuring; none where there is one prompt."""
    prompts = states.index[states.winner].unique()
    order = prompts[torch.randperm(len(prompts), generator=generator(rollout.iteration, int(rollout.seeds[0]), Stream.HELD_OUT))]
    count = max(1, round(HELD_OUT * len(prompts))) if len(prompts) > 1 else 0
    return torch.isin(states.index[states.winner], order[:count])


def _trained_head(inputs: torch.Tensor, winner: torch.Tensor, loser: torch.Tensor, rounds: int) -> Bank:
    random = generator(0, Stream.STEP_REWARD)
    weights = new_head(inputs, random)
    leaves = [weights[name].requires_grad_(True) for name in TRAINED]
    adam = torch.optim.AdamW(leaves, lr=RATE, weight_decay=DECAY)
    with torch.enable_grad():
        for _ in range(rounds):
            for rows in torch.randperm(len(winner), generator=random).split(BATCH):
                better, worse = head(weights, inputs[winner[rows]]), head(weights, inputs[loser[rows]])
                adam.zero_grad()
                choice_loss(better, worse, torch.ones(len(rows), dtype=torch.int64)).loss.backward()
                adam.step()
    return {name: weight.detach() for name, weight in weights.items()}


def _accuracy(weights: Bank, inputs: torch.Tensor, share: torch.Tensor, states: States,
              held_out: torch.Tensor) -> dict[str, float]:
    winner, loser = states.winner[held_out], states.loser[held_out]
    right = (head(weights, inputs[winner]) > head(weights, inputs[loser])).double()
    kinds = {"all": torch.ones_like(right, dtype=torch.bool), "little": share[winner] < 1 / 3,
             "some": (share[winner] >= 1 / 3) & (share[winner] < 2 / 3), "much": share[winner] >= 2 / 3}
    return {kind: float(right[rows].mean()) for kind, rows in kinds.items()}


@torch.inference_mode(False)
@torch.no_grad()
def score_latents(policy: Policy, rollout: Rollout, reward: StepReward, levels: int = 3) -> Scores:
    """Scores of a rollout's finished latents, none of them decoded: the mean over ``levels`` levels of little noise.

    Images of a prompt share noise and level, so that they can be compared; those of different prompts cannot.
    """
    check_levels(levels)
    rollout = for_autograd(rollout)
    total = torch.zeros(len(rollout.index), dtype=torch.float64)
    with open_policy(policy) as net:
        for level in range(levels):
            # little noise: above it, finished images can hardly be told apart
            share = SCORED_AT[0] + (SCORED_AT[1] - SCORED_AT[0]) * (level + 0.5) / levels
            for rows in torch.arange(len(total)).split(rollout.batch_size):
                net.check_cancelled()
                x, sigma = noised_alike(rollout, rows, net.path, share, share, level + 1000)
                total[rows] += reward.scores(net, x.to(net.device), sigma.to(net.device), rollout.prompts,
                                             rollout.index[rows]) / levels
    return Scores(total, rollout.index, {"step reward": total}, summary(total))
