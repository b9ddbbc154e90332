from __future__ import annotations

import math

import pytest
import torch
from posttrain.trainers.losses.bradley_terry import choice_loss

F64 = torch.float64


@pytest.mark.parametrize("case, k", [("bt", 1.0), ("btt", 5.0)])
def test_golden(golden, close, case, k):
    """Rows that the reference masks (invalid, and ties without k) still count in its mean."""
    file = golden("08").view(case + ".")
    label = file["in.chosen_label"].flatten()
    keep = (label != 22) & ((label != 0) | (k > 1))
    a, b = (file[f"in.rewards_{n}"].clone().requires_grad_() for n in "AB")
    out = choice_loss(a.flatten()[keep], b.flatten()[keep], label[keep].long(), k)
    loss = out.loss * keep.sum() / len(keep)
    close(loss, file["out.loss"])
    loss.backward()
    close(a.grad, file["grad.rewards_A"], 1e-6)
    close(b.grad, file["grad.rewards_B"], 1e-6)


def test_a_constant_margin_is_log_k(golden, close):
    """VideoReward's constant margin is Rao-Kupper's k on labels without ties."""
    file = golden("08").view("constant_margin.")
    label = file["in.chosen_label"].flatten()
    keep = (label != 22) & (label != 0)
    a, b = (file[f"in.rewards_{n}"].clone().requires_grad_() for n in "AB")
    out = choice_loss(a.flatten()[keep], b.flatten()[keep], label[keep].long(), math.exp(0.57))
    loss = out.loss * keep.sum() / len(keep)
    close(loss, file["out.loss"])
    loss.backward()
    close(a.grad, file["grad.rewards_A"], 1e-6)
    close(b.grad, file["grad.rewards_B"], 1e-6)


def by_chosen(file):
    """(leaves a and b, chosen minus rejected score of the raters, rows with a choice)."""
    label = file["in.chosen_label"]
    keep = (label != 22) & (label != 0)
    a, b = (file[f"in.rewards_{n}"].clone().requires_grad_() for n in "AB")
    return a, b, label * (file["in.scores_A"] - file["in.scores_B"]), keep


# VideoReward's other losses are not ours: they need raters' scores of every image, and our pairs say only which one won
@pytest.mark.parametrize("case", ["margin", "scaled"])
def test_golden_losses_that_use_how_far_apart_the_raters_put_a_pair(golden, close, case):
    """margin: Rao-Kupper's log k is each pair's own distance. scaled: Bradley-Terry, each pair weighted by it."""
    file = golden("08").view(f"{case}.")
    a, b, apart, keep = by_chosen(file)
    rows = zip(a[keep], b[keep], file["in.chosen_label"][keep].long(), apart[keep])
    each = torch.stack([
        choice_loss(x[None], y[None], choice[None], math.exp(gap)).loss if case == "margin"
        else gap * choice_loss(x[None], y[None], choice[None]).loss for x, y, choice, gap in rows])
    loss = each.sum() / keep.numel()
    close(loss, file["out.loss"])
    loss.backward()
    close(a.grad, file["grad.rewards_A"], 1e-6)
    close(b.grad, file["grad.rewards_B"], 1e-6)


def test_golden_regression_on_the_raters_scores_is_no_preference(golden, close):
    file = golden("08").view("reg.")
    a, b, *_ = by_chosen(file)
    scores = torch.stack([file["in.scores_A"], file["in.scores_B"]])
    loss = ((torch.stack([a, b]) - (scores - 3)).square() * (scores != 0)).mean()
    close(loss, file["out.loss"])
    loss.backward()
    close(a.grad, file["grad.rewards_A"], 1e-6)
    close(b.grad, file["grad.rewards_B"], 1e-6)


def test_golden_pickscores_training_is_the_same_loss_with_half_labels_for_ties(golden, close):
    """PickScore: a tie is half a choice each way, less its least value; pairs of one prompt share a weight of 1."""
    file = golden("07d").view("picktrain.").view("picktrain.neg0.")
    images = [file[f"in.image_{k}"].clone().requires_grad_() for k in (0, 1)]
    a, b = (file["const.picktrain_logit_scale"] * (image * file["in.text"]).sum(1) for image in images)
    choices = torch.ones(1, dtype=torch.int64)
    ways = [torch.stack([choice_loss(x[None], y[None], way).loss for x, y in zip(a, b)]) for way in (choices, -choices)]
    labels = file["in.label_0"], file["in.label_1"]
    each = labels[0] * ways[0] + labels[1] * ways[1] - math.log(2) * (labels[0] == labels[1])
    weights = 1 / file["in.num_examples_per_prompt"]
    loss = (each * weights).sum() / weights.sum()
    close(loss, file["out.loss"])
    loss.backward()
    for k, image in enumerate(images):
        close(image.grad, file[f"grad.image_{k}"], 1e-6)


def test_the_three_outcomes_are_all_there_is():
    a, b = torch.tensor([0.7], dtype=F64), torch.tensor([-0.4], dtype=F64)
    total = sum(math.exp(-choice_loss(a, b, torch.tensor([c]), 3.0).loss) for c in (1, -1, 0))
    assert total == pytest.approx(1.0)


def test_equal_rewards_cost_ln_2_and_ties_need_k():
    zero = torch.zeros(1, dtype=F64)
    assert choice_loss(zero, zero, torch.tensor([1])).loss.item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="ties"):
        choice_loss(zero, zero, torch.tensor([0]))


def test_accuracy_leaves_ties_out():
    a, b = torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0.0, 1.0, 3.0])
    assert choice_loss(a, b, torch.tensor([1, 1, 0]), 2.0).accuracy == 0.5
