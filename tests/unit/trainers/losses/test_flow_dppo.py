from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.flow_dppo import flow_dppo_loss
from posttrain.trainers.noise.paths import FLOW
from posttrain.trainers.noise.transitions import flow_sde, gaussian_kl

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
    each = torch.stack([flow_dppo_loss(*(v.flatten()[i:i + 1] for v in (lp, file["in.old_logp"], file["in.advantages"])),
                                       kl[i:i + 1], file["in.threshold"].item()).loss for i in range(lp.numel())])
    close(each.reshape(lp.shape), file["out.loss_per_elem"])
    close(kl.max(), file["out.metric_kl_new_old_max"])
    # which are dropped: those whose loss is nothing, but for an advantage of nothing
    advantages = file["in.advantages"].flatten()
    gone = (each == 0) & (advantages != 0)
    shares = {"kl_mask": kl >= file["in.threshold"], "unmasked": ~gone}
    shares |= {"pos_rm": gone & (advantages > 0), "neg_rm": gone & (advantages < 0)}
    for name, rows in shares.items():
        assert rows.double().mean().item() == pytest.approx(file[f"out.metric_{name}_fraction"].item())
    for number in ("mean", "min", "max", "std"):
        close(getattr(out.ratio, number)(), file[f"out.metric_ratio_{number}"], 1e-6)
    out.loss.backward()
    close(lp.grad, file["grad.new_logp"])


def test_golden_std_once_sigma_is_clamped_again(golden, close):
    """UniRL: eta sqrt(sigma / (1 - min(sigma, 0.99))) sqrt(Delta); ours takes sigma_next at sigma 1, as Flow-GRPO does."""
    file = golden("05f")
    i, sigmas, eta = file["in.step_index"], file["in.sigmas"].to(F64), file.const("eta")
    sigma, sigma_next = sigmas[i], sigmas[i + 1]
    x = torch.zeros(len(i), 1, 1, 1, dtype=F64)
    ours = flow_sde(eta)(FLOW, x, x, sigma, sigma_next).std
    first = sigma == 1
    assert first.any()
    undone = torch.where(first, ours * ((1 - sigma_next) / (1 - 0.99)).sqrt(), ours)
    close(undone, file["coef1.out.sigma_t"], 1e-6)
    assert not torch.isclose(ours[first], file["coef1.out.sigma_t"][first].to(F64), rtol=0.1).any()


def test_nothing_is_dropped_before_the_first_update_and_way_back_is_always_open():
    lp = torch.tensor([-0.2, 0.2], dtype=F64, requires_grad=True)
    zero, advantages = torch.zeros(2, dtype=F64), torch.tensor([1.0, -1.0], dtype=F64)
    assert flow_dppo_loss(lp, lp, advantages, zero).dropped_fraction == 0
    flow_dppo_loss(lp, zero, advantages, zero + 1).loss.backward()
    assert (lp.grad != 0).all()
    assert flow_dppo_loss(lp, zero, -advantages, zero + 1).dropped_fraction == 1
