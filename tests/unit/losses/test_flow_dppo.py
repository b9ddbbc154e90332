from __future__ import annotations

import pytest
import torch

from posttrain.trainers.losses.flow_dppo import flow_dppo_loss
from posttrain.trainers.transitions import gaussian_kl

F64 = torch.float64


@pytest.mark.parametrize("case", ["coef0", "coef1"])
def test_golden(golden, close, case):
    file = golden("05f").view(case + ".")
    lp = file["in.new_logp"].clone().requires_grad_()
    std = file["out.sigma_t"].to(F64).expand(lp.shape).flatten()
    kl = gaussian_kl(file["in.new_means"].flatten(0, 1), file["in.old_means"].flatten(0, 1), std)
    out = flow_dppo_loss(
        lp.flatten(), file["in.old_logp"].flatten(), file["in.advantages"].flatten(), kl, file["in.threshold"].item())
    close(out.loss, file["out.loss"])
    close(out.kl, file["out.metric_kl_new_old_mean"])
    close(out.approx_kl, file["out.metric_approx_kl"])
    assert out.dropped_fraction.item() == pytest.approx(file["out.metric_masked_fraction"].item())
    out.loss.backward()
    close(lp.grad, file["grad.new_logp"])


def test_nothing_is_dropped_before_the_first_update_and_way_back_is_always_open():
    lp = torch.tensor([-0.2, 0.2], dtype=F64, requires_grad=True)
    zero, advantages = torch.zeros(2, dtype=F64), torch.tensor([1.0, -1.0], dtype=F64)
    assert flow_dppo_loss(lp, lp, advantages, zero).dropped_fraction == 0
    flow_dppo_loss(lp, zero, advantages, zero + 1).loss.backward()
    assert (lp.grad != 0).all()
    assert flow_dppo_loss(lp, zero, -advantages, zero + 1).dropped_fraction == 1
