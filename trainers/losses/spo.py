"""SPO, arXiv 2406.04314: step-by-step preference optimization, pairs drawn inside each denoising step.

From one state, K candidates of the next state are drawn and scored by a step-aware reward; the best and the worst are
the pair, kept if softmax over their two scores differs by more than a threshold (0.3 for SD1.5, 0.4 for SDXL); the
trajectory goes on from a random candidate, so later states favour neither. The loss is D3PO's with beta 10: both
candidates share state, mean and std, so quadratic terms cancel and inside is linear in the move of the mean.
As the official code (RockeyCoss/SPO). weights [N] weigh steps, e.g. by their noise (TempFlow-GRPO, 2508.04324).
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .d3po import StepPairLoss, d3po_loss


class StepPairs(NamedTuple):
    """winner, loser: int64 [B], candidate numbers; kept: bool [B], the pairs that differ enough."""

    winner: Tensor
    loser: Tensor
    kept: Tensor


def step_pairs(scores: Tensor, threshold: float = 0.3) -> StepPairs:
    """scores [K, B] of K candidates -> best and worst of each column. Columns with a failed score are not kept."""
    usable = scores.isfinite().all(0)
    winner, loser = scores.argmax(0), scores.argmin(0)
    best, worst = scores.amax(0), scores.amin(0)
    # the difference of a softmax over two scores is tanh of half their distance
    return StepPairs(winner, loser, usable & (((best - worst) / 2).tanh() > threshold))


def spo_loss(
    winner_log_prob: Tensor,
    loser_log_prob: Tensor,
    ref_winner_log_prob: Tensor,
    ref_loser_log_prob: Tensor,
    beta: float = 10.0,
    clip_range: float = 0.1,
    weights: Tensor | None = None,
) -> StepPairLoss:
    """All [N], one row per kept pair: d3po_loss with SPO's beta. A plain batch mean."""
    return d3po_loss(
        winner_log_prob, loser_log_prob, ref_winner_log_prob, ref_loser_log_prob, beta, clip_range, weights
    )
