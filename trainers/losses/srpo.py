"""SRPO, arXiv 2509.06942: semantic relative preference optimization with direct alignment.

Direct align: noise a clean latent with a KNOWN noise, x = a x0 + s noise; take one step of the network; undo the known
noise: x0_hat = (x_next - s_next noise) / a_next. A perfect network gives x0_hat = x0 at any noise level, so early
steps too give images that a reward can judge.
Relative reward of an image f against a wanted and an unwanted wording of its prompt (unit-norm CLIP-like features):

    r    = f . ((1 + k) text - control)
    loss = mean_i max(0, 0.7 - r_i)

Denoising branch: text = wanted, control = unwanted. Inversion branch (a step up in noise, whose effect has opposite
sign): the two swapped. From the least noisy level that is drawn to the noisiest, k rises from 0.1 to 0.25 when denoising
and falls from 0.3 to 0.01 in the inversion (the official code's "later-time discount").
As the official code (Tencent-Hunyuan/SRPO), whose division by accumulation steps belongs to the update.
"""
from __future__ import annotations

from torch import Tensor

from .refl import RewardLoss, hinge_reward_loss


def direct_align(x_next: Tensor, noise: Tensor, a_next: Tensor, s_next: Tensor) -> Tensor:
    """x0_hat [B, ...] from the state after the step and the known noise [B, ...]; a_next (above 0), s_next [B]."""
    shape = (-1, *[1] * (x_next.ndim - 1))
    return (x_next - s_next.reshape(shape) * noise) / a_next.reshape(shape)


def relative_reward(image: Tensor, text: Tensor, control: Tensor, k: Tensor) -> Tensor:
    """[B]; image, text, control: unit-norm features [B, D]; k [B] or a scalar tensor."""
    return (image * ((1 + k.reshape(-1, 1)) * text - control)).sum(1)


def srpo_loss(rewards: Tensor, threshold: float = 0.7) -> RewardLoss:
    """rewards [B] with gradient, of one branch. A plain batch mean; the loss of both branches is their mean."""
    return hinge_reward_loss(rewards, threshold)
