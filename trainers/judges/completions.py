"""What a half-drawn image will become: rollouts are finished several times from their intermediate states.

The mean reward of the completions is the value of the state, as Math-Shepherd labels steps of a solution
(arXiv:2312.08935); a step reward is trained on which of two states of a prompt is worth more.
"""
from __future__ import annotations

import torch

from ...rewards.base import ranks
from ...rewards.base.reward import Reward, Scores, score
from ..feedback.pairs import preferences
from ..noise.streams import Stream, generator
from ..noise.transitions import deterministic, sample, transition_named
from ..policy.network import Network, open_policy
from ..policy.value import Bank, Policy
from ..sampling.draws import SampleNoise
from ..sampling.rollout import Progress, Rollout, for_autograd, pictures
from .step_reward import States


@torch.inference_mode(False)
@torch.no_grad()
def state_values(policy: Policy, rollout: Rollout, vae, reward: Reward, completions: int, *,
                 progress: Progress | None = None) -> torch.Tensor:
    """[B, S] float64: mean reward of the images that the states after each random step lead to; NaN where all failed.

    completions: images per state. Every step but the last is random, as in the rollout; where only the last one is left
    a state has a single completion. Costs the remaining steps' evaluations and a decoding for each.
    """
    if completions < 1:
        raise ValueError(f"completions: {completions} is not possible; choose 1 or more")
    if rollout.trajectory is None:
        raise ValueError("rollout: no step was random, so it has no intermediate states; set the noise level above 0 in the "
                         "sampling settings")
    rollout = for_autograd(rollout)
    start = int((rollout.sigmas - rollout.random_steps().sigmas[0]).abs().argmin())
    columns = []
    for k in range(1, rollout.random_steps().steps + 1):
        repeats = 1 if start + k >= len(rollout.sigmas) - 2 else completions
        values = [_values(policy, rollout, vae, reward, k, start + k, m) for m in range(repeats)]
        columns.append(torch.stack(values).nanmean(0))
        if progress is not None:
            progress(k, rollout.random_steps().steps, None)
    return torch.stack(columns, 1)


def compared_states(rollout: Rollout, values: torch.Tensor, least_margin: float = 0.0) -> States:
    """Every two states of a prompt after the same step, the one of the higher value first. values: from state_values."""
    samples, steps = values.shape
    groups = (rollout.index[:, None] * steps + torch.arange(steps)).flatten()
    found = preferences(Scores(values.flatten(), groups, {}, {}), "all pairs", least_margin=least_margin)
    return States(x=rollout.random_steps().states[:, 1:].flatten(0, 1), sigma=rollout.random_steps().sigmas[1:].repeat(samples),
                  index=rollout.index.repeat_interleave(steps), winner=found.winner, loser=found.loser)


def _values(policy: Policy, rollout: Rollout, vae, reward: Reward, step: int, position: int,
            completion: int) -> torch.Tensor:
    """[B]: rewards of one completion of every sample's state after this step."""
    latents, count, size = [], len(rollout.index), rollout.batch_size
    with open_policy(policy) as net:
        bank = net.to_device(policy.chosen("behaviour"))
        for rows in ranks.own_batches(count, size):
            random = [generator(int(rollout.seeds[row]), step, completion, Stream.COMPLETION) for row in rows]
            noise = SampleNoise(torch.cat([torch.randint(2**62, (1,), generator=own) for own in random]))
            states, index = rollout.random_steps().states[rows, step], rollout.index[rows]
            latents.append(_finished(net, bank, rollout, states, index, position, noise))
    images = pictures(policy.model, vae, ranks.joined_rows("completions", latents, count, size), size)
    return score(reward, images, rollout.prompts_of_samples(), rollout.index).values


def _finished(net: Network, bank: Bank, rollout: Rollout, x: torch.Tensor, index, position: int,
              noise: SampleNoise) -> torch.Tensor:
    """Clean latents out of states at ``position`` of the rollout's noise levels."""
    random = transition_named(rollout.random_steps().transition, rollout.random_steps().strength, net.path)
    shape, last, x = tuple(x.shape[1:]), len(rollout.sigmas) - 2, x.to(net.device)
    for i in range(position, last + 1):
        sigma, sigma_next = (rollout.sigmas[k].to(x.device).expand(len(x)) for k in (i, i + 1))
        step = random if i < last else deterministic()
        x0 = net.denoise(x, sigma, rollout.prompts, index, rollout.guidance, bank, schedule=rollout.sigmas)
        move = step(net.path, x, x0, sigma, sigma_next)
        x = sample(move, noise.next(shape).to(x.device)) if i < last else move.mean
    return x.cpu()
