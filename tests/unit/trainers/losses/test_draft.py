"""DRaFT and AlignProp, which is the same with a target."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.draft import alignprop_loss, draft_loss

F64 = torch.float64


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
    each = torch.stack([alignprop_loss(s[None], 1.0, file.const("alignprop_grad_scale")).loss for s in scores])
    close(each, file["out.per_sample_loss"])
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


@pytest.mark.parametrize("target", [None, 1.0])
def test_alignprops_report_counts_what_has_reached_the_target_and_holds_no_graph(target):
    out = alignprop_loss(torch.tensor([0.5, 1.0, 3.0], dtype=F64, requires_grad=True), target)
    assert out.loss.requires_grad and not out.reward.requires_grad and not out.saturated.requires_grad
    assert out.reward == 1.5 and out.saturated == pytest.approx(0.0 if target is None else 2 / 3)
