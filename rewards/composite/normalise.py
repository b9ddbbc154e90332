"""Scores of different rewards on one scale. All statistics leave out failed (NaN) images, which stay NaN.

Means and deviations carry no gradient: with them the gradient of a group's normalised scores would cancel out.
"""
from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 0.1  # share of the typical group deviation below which a group's own deviation is taken for noise


def group_z(values: Tensor, groups: Tensor) -> Tensor:
    """(score - mean of its group) / deviation of its group. values [B], groups [B] -> [B].

    The deviation is never below FLOOR times the mean deviation over the groups, so that a group whose scores are nearly
    equal is not blown up; a group without any spread gives 0.
    """
    means, stds = torch.full_like(values, torch.nan).detach(), torch.full_like(values, torch.nan).detach()
    for members in group_masks(values, groups):
        scores = values[members].detach()
        means[members], stds[members] = scores.mean(), scores.std(correction=0)
    typical = stds[~stds.isnan()].mean() if (~stds.isnan()).any() else stds.sum()
    return divided(values - means, stds.clamp_min(FLOOR * typical.nan_to_num()))


def batch_z(values: Tensor) -> Tensor:
    """(score - mean) / deviation over the whole batch."""
    return group_z(values, torch.zeros(values.shape, dtype=torch.int64))


def calibrated(values: Tensor, mean: float, std: float) -> Tensor:
    """(score - mean) / std with statistics that were measured once, on the base model. std must be above 0."""
    if not std > 0:
        raise ValueError(f"calibration: the deviation must be above 0, got {std}. Calibrate on more, different images.")
    return (values - mean) / std


def win_rate(values: Tensor, groups: Tensor) -> Tensor:
    """Share of its group mates that an image beats, a tie is half a win: its rank, scaled to 0..1. A group of one: 0.5.

    Bounded, so that a reward model's extreme values cannot be exploited; not differentiable.
    """
    result = torch.full_like(values, torch.nan).detach()
    for members in group_masks(values, groups):
        scores = values[members].detach()
        ahead = (scores[:, None] > scores).double() + 0.5 * (scores[:, None] == scores).double()
        others = max(len(scores) - 1, 1)
        result[members] = ((ahead.sum(1) - 0.5) / others if len(scores) > 1 else ahead.sum(1)).to(result.dtype)
    return result


def group_masks(values: Tensor, groups: Tensor) -> list[Tensor]:
    """One mask [B] per group over its images that have a score."""
    groups = groups.to(values.device)
    masks = [(groups == g) & ~values.isnan() for g in groups.unique()]
    return [m for m in masks if m.any()]


def divided(values: Tensor, by: Tensor) -> Tensor:
    """values / by, and 0 where by is 0 (no spread)."""
    return torch.where(by > 0, values / by.masked_fill(by == 0, 1), values * 0)
