from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.grpo_guard import grpo_guard_loss, guard_log_ratio
from posttrain.trainers.noise.paths import FLOW
from posttrain.trainers.noise.transitions import flow_sde, gaussian_kl, log_prob, sample

F64 = torch.float64


def steps(file, velocity, dtype):
    """Per trained step j: Gaussian of the velocity [B, J, ...], std, Delta."""
    transition, sigmas = flow_sde(file.const("noise_level")), file["in.sigmas"].to(dtype)
    for j, i in enumerate(file["in.step_index"].tolist()):
        x = file["in.sample"][:, j].to(dtype)
        sigma, sigma_next = sigmas[i].expand(len(x)), sigmas[i + 1].expand(len(x))
        yield j, transition(FLOW, x, FLOW.x0(x, velocity[:, j], sigma), sigma, sigma_next), sigma - sigma_next


@pytest.mark.parametrize("precision, tolerance", [("f64.", 1e-7), ("", 3e-4)])
@pytest.mark.parametrize("case", ["persample.", "released."])
def test_golden(golden, close, float32_constant, precision, tolerance, case):
    """persample: ours. released: ours once the bias is averaged over the batch, the official slip."""
    dtype = F64 if precision else torch.float32
    own = "persample." if case == "persample." else ""
    file = golden("05d").view(precision).view(f"{precision}{own}")
    velocity, reference = file["in.model_output"].to(dtype).requires_grad_(), file["in.ref_output"].to(dtype)
    offset = float32_constant if precision else 0.0
    most, total = file.const("adv_clip_max"), 0.0
    for j, old, _ in steps(file, file["in.old_output"].to(dtype), dtype):
        close(old.mean, file["in.old_mean"][:, j], tolerance)
        close(sample(old, file["in.noise"][:, j].to(dtype)), file["in.next_sample"][:, j], tolerance)
    for (j, g, delta), (_, ref, _) in zip(steps(file, velocity, dtype), steps(file, reference, dtype)):
        lp = log_prob(file["in.next_sample"][:, j], g) + offset
        close(lp, file["out.log_prob"][j], tolerance)
        old_mean = file["in.old_mean"][:, j]
        bias = (g.mean - old_mean).square().flatten(1).mean(1) / (2 * g.std.square())
        close(bias.mean() if case == "released." else bias, file["out.ratio_mean_bias"][j], tolerance)
        undo = bias.mean() - bias if case == "released." else 0.0
        ratio = guard_log_ratio(lp + undo, file["in.old_log_prob"][j], g.mean, old_mean, g.std)
        kl = gaussian_kl(g.mean, ref.mean, g.std) * delta  # the official KL forgets Delta
        advantages = file["in.advantages"][:, j].to(dtype).clamp(-most, most)
        out = grpo_guard_loss(ratio, advantages, delta, file.const("clip_range"), kl, file.const("beta"))
        close(out.ratio - 1, file["out.ratio"][j] - 1, 1e-6 if precision else 2e-3)
        close(out.policy_loss, file["out.policy_loss"][j], tolerance)
        close(out.kl, file["out.kl_loss"][j], tolerance)
        close(out.loss, file["out.loss"][j], tolerance)
        total = total + out.loss
    total.backward()
    # float32: rows near the clip's edge may fall on either side, and the last step divides by a tiny Delta
    close(velocity.grad, file["grad.model_output"], 1e-6 if precision else 2e-3)


def test_expected_log_ratio_is_zero_for_guard_and_negative_without():
    n, noise = 40000, torch.Generator().manual_seed(0)
    x, x0, x0_new = (torch.randn(1, 2, 2, 2, dtype=F64, generator=noise).expand(n, 2, 2, 2) for _ in range(3))
    for sigma in (0.95, 0.3):
        s = torch.full((n,), sigma, dtype=F64)
        old, new = (flow_sde(0.7)(FLOW, x, d, s, s * 0.8) for d in (x0, x0 + 0.3 * x0_new))
        x_next = sample(old, torch.randn(n, 2, 2, 2, dtype=F64, generator=noise))
        plain = log_prob(x_next, new) - log_prob(x_next, old)
        guard = guard_log_ratio(log_prob(x_next, new), log_prob(x_next, old), new.mean, old.mean, old.std)
        error = guard.std() / n**0.5
        assert guard.mean().abs() < 4 * error
        assert plain.mean() < -4 * plain.std() / n**0.5
        z = (x_next - old.mean) / old.std[0]
        torch.testing.assert_close(guard, (z * (new.mean - old.mean)).flatten(1).mean(1))
