"""ReFL."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.refl import refl_loss

F64 = torch.float64


def test_refl_golden(golden, close):
    file = golden("06b").view("refl.")
    rewards = file["in.rewards"].clone().requires_grad_()
    out = refl_loss(rewards, scale=file.const("refl_grad_scale"))
    close(out.loss, file["out.loss"])
    out.loss.backward()
    close(rewards.grad, file["grad.rewards"])
    assert out.saturated == 0.5 and (rewards.grad == 0).sum() == 3


def test_refl_pretraining_term():
    rewards, error = (torch.tensor([v], dtype=F64, requires_grad=True) for v in (1.0, 0.25))
    plain = refl_loss(rewards).loss
    torch.testing.assert_close(refl_loss(rewards, pretrain_error=error, pretrain_weight=2.0).loss, plain + 0.5)
    with pytest.raises(ValueError, match="pretrain_error"):
        refl_loss(rewards, pretrain_weight=1.0)
