"""DPOK, arXiv 2305.16381: policy gradient on denoising steps, a KL to the pretrained model, optional value baseline.

    loss = reward_weight * mean_i max(-A_i ratio_i, -A_i clip(ratio_i, 1 - c, 1 + c)) + kl_weight * mean_i KL_i
    A_i  = reward_i - V(x_t, prompt, t), or the reward alone, or any advantage

Two differences from the official code (google-research/dpok), both on purpose:
- it multiplies by the clamped ratio without the max, so the gradient is 0 outside the range on both sides and a step
  that ran off the wrong way is never pulled back; we use PPO's max, which stops only steps that go further out.
- its KL is the plain squared difference of the guided noise predictions; KL_i [B] here is the paper's closed-form
  Gaussian KL of the step (transitions.gaussian_kl), which weighs a difference by how much it moves that step.
Its division by the number of accumulation steps belongs to the update.
"""
from __future__ import annotations

from torch import Tensor

from .ddpo import clipped_objective
from .flow_grpo import KLPolicyLoss, with_kl


def dpok_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    clip_range: float = 1e-4,
    kl: Tensor | None = None,
    kl_weight: float = 0.01,
    reward_weight: float = 100.0,
) -> KLPolicyLoss:
    """All tensors [B]; gradient through log_prob and kl. A plain batch mean. kl_weight 0 needs no kl."""
    log_ratio = log_prob - old_log_prob.detach()
    policy = clipped_objective(log_ratio, advantages, clip_range).mean()
    return with_kl(reward_weight * policy, log_ratio, clip_range, kl, kl_weight)


def value_loss(values: Tensor, rewards: Tensor) -> Tensor:
    """Scalar mean (V - reward)^2 of the baseline network; both [B]. A plain batch mean."""
    return (values - rewards.detach()).square().mean()
