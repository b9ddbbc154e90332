"""Scores -> advantages: how much better an image is than what the policy usually makes of its prompt.

Rules (r: reward, group: the images of one prompt in this batch, std: population, all float64):
- "group mean, global std"   (r - mean_group) / (std_batch + 1e-4)     Flow-GRPO's default, arXiv 2505.05470
- "group mean, group std"    (r - mean_group) / (std_group + 1e-4)     GRPO, arXiv 2402.03300
- "leave one out"            r - mean of the group's others            RLOO, arXiv 2402.14740
- "no std"                   r - mean_group                            Dr. GRPO, arXiv 2503.20783
- "per-prompt memory"        (r - mean) / (std + 1e-6) of the prompt's last rewards, older policies' included; of the
                             batch while the memory is short           DDPO, arXiv 2305.13301
- "batch"                    (r - mean_batch) / (std_batch + 1e-8)     DDPO without tracking
- "each reward in its group" every member reward by "group std", weighted, summed, divided by the batch's std:
                             GDPO, arXiv 2601.05242; a reward's scale and spread no longer decide its weight

DanceGRPO's group std is the unbiased one with 1e-8: the same up to sqrt(n / (n - 1)), which the learning rate absorbs.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...rewards.base.words import brief

if TYPE_CHECKING:
    from ...rewards.base.reward import Scores

GROUP_RULES = (
    "group mean, global std", "group mean, group std", "leave one out", "no std", "each reward in its group",
)
RULES = (*GROUP_RULES, "per-prompt memory", "batch")
# rewards come from float32 networks: a spread below this share of their size is rounding, not preference
EQUAL = 1e-6
Memory = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Advantages:
    """values [B] float64, 0 where unused; used [B] bool, True where the sample is used; groups [B] int64.

    stats: groups, zero_spread_groups (two or more scores, all equal), single_groups, failed, used (counts),
    reward_mean, reward_std, and the mean of each member reward as "reward/<name>" where there are several.
    rewards: [B] the raw scores, for trainers that weigh by them.
    memory: prompt -> last rewards, for the next call of rule "per-prompt memory", else None.
    """

    values: Tensor
    used: Tensor
    groups: Tensor
    stats: dict[str, float]
    memory: dict[str, tuple[float, ...]] | None = None
    rewards: Tensor | None = None
    __repr__ = brief


class _Groups(NamedTuple):
    """Statistics over the finite values of each sample's group, all [B]; mean is 0 where there is none."""

    mean: Tensor
    std: Tensor
    count: Tensor
    spread: Tensor  # bool: two or more values that differ


def differ(high: Tensor, low: Tensor) -> Tensor:
    """Elementwise: is high above low by more than rounding?"""
    return (high - low) > EQUAL * torch.maximum(high.abs(), low.abs())


def _statistics(values: Tensor, valid: Tensor, index: Tensor) -> _Groups:
    """values [B], valid [B] bool, index [B] in 0..G-1."""
    number = int(index.max()) + 1
    zeros = values.new_zeros(number)
    safe = values.where(valid, 0.0)
    count = zeros.index_add(0, index, valid.to(values.dtype))
    divisor = count.clamp_min(1)
    mean = (zeros.index_add(0, index, safe) / divisor)[index]
    square = ((safe - mean) ** 2).where(valid, 0.0)
    std = (zeros.index_add(0, index, square) / divisor).sqrt()[index]
    high = torch.full_like(zeros, -torch.inf).scatter_reduce(0, index, values.where(valid, -torch.inf), "amax")[index]
    low = torch.full_like(zeros, torch.inf).scatter_reduce(0, index, values.where(valid, torch.inf), "amin")[index]
    count = count[index]
    return _Groups(mean, std, count, (count > 1) & differ(high, low))


def _whole(values: Tensor, valid: Tensor) -> _Groups:
    return _statistics(values, valid, torch.zeros_like(valid, dtype=torch.int64))


def _group_rule(rule: str, r: Tensor, valid: Tensor, group: _Groups) -> Tensor:
    centred = r - group.mean
    if rule == "group mean, global std":
        return centred / (_whole(r, valid).std + 1e-4)
    if rule == "group mean, group std":
        return centred / (group.std + 1e-4)
    if rule == "leave one out":
        return centred * group.count / (group.count - 1).clamp_min(1)
    return centred


def _each_reward(members: Mapping[str, Tensor], weights: Mapping[str, float], valid: Tensor, index: Tensor):
    """GDPO: (values, spread); spread where at least one weighted reward differs within the group."""
    total, spread = torch.zeros_like(valid, dtype=torch.float64), torch.zeros_like(valid)
    for name, weight in weights.items():
        r = members[name].to(torch.float64)
        group = _statistics(r, valid, index)
        total += weight * ((r - group.mean) / (group.std + 1e-4)).where(group.spread, 0.0)
        spread |= group.spread & (weight != 0)
    return total / (_whole(total, valid & spread).std + 1e-4), spread


def remember(r: Tensor, valid: Tensor, groups: Tensor, memory: Memory, size: int) -> dict[str, tuple[float, ...]]:
    """A new memory: each prompt's last `size` rewards, this batch's at the end. Nothing is changed in place."""
    new = {key: tuple(rewards) for key, rewards in memory.items()}
    for value, group in zip(r[valid].tolist(), groups[valid].tolist()):
        new[str(group)] = (*new.get(str(group), ()), value)[-size:]
    return new


def _memory_rule(r: Tensor, valid: Tensor, groups: Tensor, memory: Memory, least: int) -> tuple[Tensor, Tensor]:
    """(values, spread) against each prompt's memory, which holds this batch too; the batch's statistics if short."""
    batch = _whole(r, valid)
    mean, std, spread = batch.mean.clone(), batch.std.clone(), batch.spread.clone()
    for group in groups[valid].unique().tolist():
        past = torch.tensor(memory[str(group)], dtype=torch.float64)
        if len(past) >= least:
            rows = groups == group
            mean[rows], std[rows] = past.mean(), past.std(correction=0)
            spread[rows] = differ(past.max(), past.min())
    return (r - mean) / (std + 1e-6), spread


def advantages(
    scores: Scores,
    rule: str = "group mean, global std",
    *,
    clip: float = 5.0,
    memory: Memory | None = None,
    memory_size: int = 16,
    memory_least: int = 16,
    weights: Mapping[str, float] | None = None,
) -> Advantages:
    """Advantages of scores.values [B] in scores.groups [B] (or of scores.members for "each reward in its group").

    Failed (not finite) scores are left out of all statistics and unused. Samples without any spread to learn from
    (group rules: their group's scores are all equal, or it has one) are unused: they would cost a step and only pull
    through the KL. values are clamped to +-clip. memory, memory_size (rewards kept per prompt) and memory_least
    (fewer: batch statistics) serve "per-prompt memory", whose keys are the group numbers, so a prompt must keep its
    number through the run. weights: member name -> weight, default what scores.weights says, else 1 each.
    Raises ValueError for an unknown rule or member, and for a group rule when every prompt has only one image.
    """
    if rule not in RULES:
        raise ValueError(f"advantage rule: unknown {rule!r}; use one of {', '.join(RULES)}")
    if not clip > 0:
        raise ValueError(f"clip: {clip} must be above 0; 5 is usual")
    r, groups = scores.values.detach().to("cpu", torch.float64), scores.groups.to("cpu", torch.int64)
    if r.ndim != 1 or r.shape != groups.shape or not len(r):
        raise ValueError(f"scores: values {tuple(r.shape)} and groups {tuple(groups.shape)} must both be [B], B > 0")
    index = groups.unique(return_inverse=True)[1]
    if rule in GROUP_RULES and index.bincount().max() < 2:
        raise ValueError(f"scores: every prompt has one image, but the rule {rule!r} compares images of the same "
                         "prompt; raise images per prompt to 2 or more (8 is good), or choose the rule 'batch'")
    members = {}
    if rule == "each reward in its group":
        members, weights = _members(scores, weights)
    valid = torch.stack([r, *members.values()]).isfinite().all(0)
    group = _statistics(r, valid, index)
    new_memory = None
    if members:
        values, spread = _each_reward(members, weights, valid, index)
    elif rule == "per-prompt memory":
        new_memory = remember(r, valid, groups, memory or {}, memory_size)
        values, spread = _memory_rule(r, valid, groups, new_memory, memory_least)
    elif rule == "batch":
        batch = _whole(r, valid)
        values, spread = (r - batch.mean) / (batch.std + 1e-8), batch.spread
    else:
        values, spread = _group_rule(rule, r, valid, group), group.spread
    used = valid & spread
    values = values.where(used, 0.0).clamp(-clip, clip)
    stats = _stats(r, valid, index, group, used) | member_means(scores) | scores.counts
    return Advantages(values, used, groups, stats, new_memory, r)


def member_means(scores: Scores) -> dict[str, float]:
    """Mean raw score of each member of a composite reward, monitors included, for the curve."""
    if len(scores.members) < 2:
        return {}
    return {f"reward/{name}": float(m.double()[m.isfinite()].mean()) for name, m in scores.members.items()
            if m.isfinite().any()}


def _members(scores: Scores, weights: Mapping[str, float] | None) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    members = {name: m.detach().to("cpu", torch.float64) for name, m in scores.members.items()}
    if weights is None and scores.weights == {}:  # gates and monitors are no rewards to train on: take the score itself
        return {"": scores.values.detach().to("cpu", torch.float64)}, {"": 1.0}
    if weights is None:
        weights = scores.weights or dict.fromkeys(members, 1.0)
    missing = [name for name in weights if name not in members]
    if missing or not weights:
        raise ValueError(f"weights: no reward called {', '.join(missing) or 'anything'}; "
                         f"the scores hold {', '.join(members) or 'none by name'}")
    return {name: members[name] for name in weights}, weights


def _stats(r: Tensor, valid: Tensor, index: Tensor, group: _Groups, used: Tensor) -> dict[str, float]:
    def groups_where(condition: Tensor) -> float:
        return float(index[valid & condition].unique().numel())

    return {
        "groups": float(index.max() + 1),
        "zero_spread_groups": groups_where((group.count > 1) & ~group.spread),
        "single_groups": groups_where(group.count == 1),
        "failed": float((~valid).sum()),
        "used": float(used.sum()),
        "reward_mean": float(r[valid].mean()) if valid.any() else float("nan"),
        "reward_std": float(r[valid].std(correction=0)) if valid.any() else 0.0,
    }
