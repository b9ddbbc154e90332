"""ReFL, AlignProp, DRaFT and SRPO."""
from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.draft import alignprop_loss, draft_loss
from posttrain.trainers.losses.refl import refl_loss
from posttrain.trainers.losses.srpo import direct_align, relative_reward, srpo_loss
from posttrain.trainers.noise.paths import FLOW, expand

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


@pytest.mark.parametrize("case", ["target", "max"])
def test_alignprop_golden(golden, close, case):
    file = golden("06b").view(f"alignprop_aesthetic_{case}.")
    rewards = file["in.aesthetic"].clone().requires_grad_()
    target = file.const("aesthetic_target") if case == "target" else None
    out = alignprop_loss(rewards, target, file.const("loss_coeff"))
    close(out.loss, file["out.loss"])
    each = torch.stack([alignprop_loss(r[None], target, file.const("alignprop_grad_scale")).loss for r in rewards])
    close(each, file["out.per_sample_loss"])
    out.loss.backward()
    close(rewards.grad, file["grad.aesthetic"])


def test_alignprop_hps_golden(golden, close):
    """1 - cosine is the target form with target 1."""
    file = golden("06b").view("alignprop_hps.")
    image = file["in.image_features"].clone().requires_grad_()
    scores = (image * file["in.text_features"]).sum(1)
    close(scores, file["out.scores"])
    out = alignprop_loss(scores, 1.0, file.const("loss_coeff"))
    close(out.loss, file["out.loss"])
    out.loss.backward()
    close(image.grad, file["grad.image_features"])


def test_draft_maximises_and_drift_holds_back():
    rewards, drift = (torch.tensor(v, dtype=F64, requires_grad=True) for v in ([0.5, 1.5], [2.0, 4.0]))
    out = draft_loss(rewards, drift, 0.1)
    assert out.loss.item() == pytest.approx(-1.0 + 0.3) and out.reward == 1.0
    out.loss.backward()
    assert rewards.grad.tolist() == [-0.5, -0.5] and drift.grad.tolist() == pytest.approx([0.05, 0.05])
    with pytest.raises(ValueError, match="drift"):
        draft_loss(rewards, kl_weight=0.1)


def test_srpo_golden(golden, close):
    file = golden("06c")
    image = file["in.image_features"].clone().requires_grad_()
    reward = relative_reward(image, file["in.text_features"], file["in.text_features_control"], file["in.k"])
    close(reward, file["out.srp_reward"])
    losses = torch.stack([srpo_loss(r[None]).loss for r in reward]) / file.const("gradient_accumulation_steps")
    close(losses, file["out.loss_per_sample"])
    losses.sum().backward()
    close(image.grad, file["grad.image_features"])


def test_direct_align_recovers_x0_from_a_perfect_network_in_both_branches():
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 3, 4, 4, dtype=F64, generator=g) for _ in range(2))
    for start, end in ((0.9, 0.8), (0.3, 0.4)):
        sigma, sigma_next = (torch.full((2,), s, dtype=F64) for s in (start, end))
        x = FLOW.add_noise(x0, noise, sigma)
        for error in (0.0, 0.1):
            velocity = FLOW.target(x0, noise, sigma) + error
            x_next = x + expand(sigma_next - sigma, x) * velocity
            out = direct_align(x_next, noise, *FLOW.coefficients(sigma_next))
            torch.testing.assert_close(out, x0 + error * expand((sigma_next - sigma) / (1 - sigma_next), x))
