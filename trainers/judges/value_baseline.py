"""DPOK's value baseline: which reward to expect of a half-drawn image, learned from the rollouts as they come.

V(x_t, prompt, t) is a small head on what the user's own frozen network sees in the state (arXiv:2305.16381 has a network
of its own for it). Any function of the state may be subtracted from the reward: the gradient stays the same on average
and gets steadier. For that the head that judges a rollout must not have seen it: it learns from a rollout after it has
judged it, and the first rollout is compared with the mean of its other images. The official code (google-research/dpok)
fits the head to the very rewards that it is subtracted from.
"""
from __future__ import annotations

import torch

from ..losses.dpok import value_loss
from ..noise.paths import noise_share
from ..noise.streams import Stream, generator
from ..policy.features import block_features, feature_blocks
from ..policy.fitting import in_room
from ..policy.network import Network
from ..policy.value import Bank, Policy
from ..sampling.rollout import Rollout
from .head import TRAINED, head, head_inputs, new_head

VALUE = "value"  # its place among the policy's anchors
RATE, DECAY = 3e-4, 0.01  # slow: rewards are noisy, and what a rollout knows of its few prompts misleads on others
LEAST_STD = 0.1  # the first rollout may have one prompt only; later ones must not look far away
LEAVES = (*TRAINED, "out.bias")


def value_baseline(policy: Policy, rollout: Rollout, rewards: torch.Tensor, steps: int
                   ) -> tuple[torch.Tensor, Bank, dict[str, float], int]:
    """(expected rewards [B, S], the head after ``steps`` more optimizer steps, numbers to report, network evaluations).

    rewards: [B], not finite where an image could not be scored; one must be finite. The expectation is the one of before
    those steps. The head comes from the policy's anchors and belongs there again. Costs one evaluation of the
    frozen network (of its first part) for each image and random step.
    """
    inputs, evaluations = _inputs(policy, rollout)
    known, count = rewards.isfinite(), rollout.random_steps().steps
    rewards = rewards.to(torch.float32)
    kept = policy.anchors.get(VALUE)
    if kept is None:
        expected = _mean_of_others(rewards, known)[:, None].expand(-1, count)
        kept = _new_value(inputs[known], rewards[known])
    else:
        expected = values(kept, inputs)
    flat, target = inputs[known].flatten(0, 1), rewards[known].repeat_interleave(count)
    missed, spread = value_loss(expected[known].flatten(), target), float(target.var(correction=0))
    report = {"value_loss": float(missed), "value_explained": 1 - float(missed) / max(spread, 1e-12)}
    return expected, fitted(kept, flat, target, steps), report, evaluations


def values(weights: Bank, inputs: torch.Tensor) -> torch.Tensor:
    """[..., F + 1] -> [...]: the expected reward, in the reward's own units."""
    normal = head(weights, inputs.flatten(0, -2)) + weights["out.bias"]
    return (weights["reward.mean"] + weights["reward.std"] * normal).reshape(inputs.shape[:-1])


def fitted(kept: Bank, inputs: torch.Tensor, rewards: torch.Tensor, steps: int) -> Bank:
    """The head and its moments after ``steps`` steps on all of inputs [N, F + 1] with their rewards [N]."""
    leaves = {name: kept[name].clone().requires_grad_(True) for name in LEAVES}
    weights = kept | leaves
    adam = torch.optim.AdamW(list(leaves.values()), lr=RATE, weight_decay=DECAY)
    for name, leaf in leaves.items():
        if f"{name}.exp_avg" in kept:
            adam.state[leaf] = {"step": kept["steps"].clone()} | {
                moment: kept[f"{name}.{moment}"].clone() for moment in ("exp_avg", "exp_avg_sq")}
    with torch.enable_grad():
        for _ in range(steps):
            adam.zero_grad()
            # in units of the first rollout's spread, so that one learning rate fits every reward
            (value_loss(values(weights, inputs), rewards) / kept["reward.std"] ** 2).backward()
            adam.step()
    moments = {f"{name}.{moment}": adam.state[leaf][moment].detach()
               for name, leaf in leaves.items() for moment in ("exp_avg", "exp_avg_sq")}
    return kept | {name: leaf.detach() for name, leaf in leaves.items()} | moments | {
        "steps": kept["steps"] + float(steps)}


def _new_value(inputs: torch.Tensor, rewards: torch.Tensor) -> Bank:
    """A head that expects the mean of these rewards [N] everywhere. inputs: [N, S, F + 1]."""
    weights = new_head(inputs.flatten(0, 1), generator(0, Stream.VALUE), LEAST_STD)
    std, mean = torch.std_mean(rewards, correction=0)
    return weights | {"out.weight": torch.zeros_like(weights["out.weight"]), "out.bias": torch.zeros(()),
                      "reward.mean": mean, "reward.std": std if std > 1e-8 else torch.ones(()), "steps": torch.zeros(())}


def _mean_of_others(rewards: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """[B]: the mean of the other images' rewards, which says nothing of the image itself; its own where it is alone."""
    others = int(known.sum()) - 1
    return (rewards[known].sum() - rewards) / others if others else rewards


def _inputs(policy: Policy, rollout: Rollout) -> tuple[torch.Tensor, int]:
    """[B, S, F + 1] of the states that the random steps started from, and what they cost."""
    trajectory = rollout.random_steps()

    def asked(net: Network) -> tuple[torch.Tensor, int]:
        blocks, steps = feature_blocks(net), []
        for step in range(trajectory.steps):
            parts = []
            for rows in torch.arange(len(rollout.index)).split(rollout.batch_size):
                net.check_cancelled()
                x, sigma = trajectory.states[rows, step], trajectory.sigmas[step].expand(len(rows))
                features = block_features(net, blocks, x.to(net.device), sigma.to(net.device), rollout.prompts,
                                          rollout.index[rows]).cpu()
                parts.append(head_inputs(features, noise_share(net.path, sigma)))
            steps.append(torch.cat(parts))
        return torch.stack(steps, 1), net.evaluations

    return in_room(policy, asked)[0]
