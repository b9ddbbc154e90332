from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.losses.kto import kto_loss, reference_point
from torch.nn.functional import logsigmoid

F64 = torch.float64


@pytest.mark.parametrize("case", ["offset_none.sigmoid", "offset_none.sigmoid_worse", "offset_sigmoid.sigmoid",
                                  "offset_original.sigmoid"])
def test_golden(golden, close, case):
    """none: our reference point. The two other offsets: the same loss given theirs, which are gains by other means."""
    file = golden("04d").view(f"kto.{case}.")
    name = "in.model_pred_worse" if case.endswith("worse") else "in.model_pred"
    prediction = file[name].clone().requires_grad_()
    error, ref = (squared_error(p, file["in.noise"]) for p in (prediction, file["in.ref_pred"]))
    labels = file["in.labels"].bool()
    point = reference_point(error, ref) if case.startswith("offset_none") else file["out.reference_point"]
    close(point, file["out.reference_point"])
    if case.startswith("offset_original"):  # images under the next image's prompt
        rolled = (squared_error(file[f"in.{name}_pred_rolled_prompt"], file["in.noise"]) for name in ("model", "ref"))
        close(reference_point(*rolled), point, 1e-6)
    elif case.startswith("offset_sigmoid"):
        close(((ref - error)[labels].mean() + (ref - error)[~labels].mean()) / 2, point, 1e-6)
    out = kto_loss(error, ref, labels, point, file.const("beta_dpo"), file.const("lambda_d_kto"),
                   file.const("lambda_u_kto"))
    close(out.loss, file["out.loss"])
    close(ref - error - point, file["out.g_term_minus_ref_point"], 1e-6)
    assert out.accuracy.item() == pytest.approx(file["out.acc"].item())
    assert case != "offset_none.sigmoid_worse" or point == 0
    out.loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)


# the official code's other utilities, which we do not offer: of the gain x = beta (g - z) and the sign y of the label
UTILITIES = {
    "kto.offset_none.loss_averse": lambda x, y: logsigmoid(y * x),
    "kto.offset_none.risk_seeking_1": lambda x, y: -y * logsigmoid(-x),
    "kto.offset_none.risk_seeking_2": lambda x, y: y * (x / 100).exp() - 1,
    "kto.offset_none.risk_seeking_3": lambda x, y: -logsigmoid(-y * x),
}


@pytest.mark.parametrize("case", UTILITIES)
def test_golden_other_utilities_have_our_gain_and_reference_point(golden, close, case):
    file = golden("04d").view(f"{case}.")
    prediction = file["in.model_pred"].clone().requires_grad_()
    error, ref = (squared_error(p, file["in.noise"]) for p in (prediction, file["in.ref_pred"]))
    point = reference_point(error, ref)
    close(point, file["out.reference_point"])
    close(ref - error - point, file["out.g_term_minus_ref_point"], 1e-6)
    loss = (1 - UTILITIES[case](file.const("beta_dpo") * (ref - error - point), 2 * file["in.labels"].to(F64) - 1)).mean()
    close(loss, file["out.loss"])
    ours = kto_loss(error, ref, file["in.labels"].bool(), point, file.const("beta_dpo"))
    assert ours.accuracy.item() == pytest.approx(file["out.acc"].item())
    loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)


def test_golden_one_utility_for_the_whole_batch_has_our_gain_and_reference_point(golden, close):
    """The script's unpublished "kto_gp", not ours: by a slip its value is the utility of the unscaled mean gain, and only
    its gradient is that of the labelled gains."""
    file = golden("04d").view("kto_gp.offset_none.sigmoid.")
    prediction = file["in.model_pred"].clone().requires_grad_()
    error, ref = (squared_error(p, file["in.noise"]) for p in (prediction, file["in.ref_pred"]))
    point, labels = reference_point(error, ref), file["in.labels"].bool()
    gain = ref - error
    close(point, file["out.reference_point"])
    close(gain - point, file["out.g_term_minus_ref_point"], 1e-6)
    assert kto_loss(error, ref, labels, point).accuracy.item() == pytest.approx(file["out.acc"].item())
    labelled = ((2 * labels.to(F64) - 1) * file.const("beta_dpo") * (gain - point)).mean()
    loss = 1 - (gain.mean().detach() + labelled - labelled.detach()).sigmoid()
    close(loss, file["out.loss"])
    loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)


def test_golden_the_scripts_fine_tuning_is_the_error_of_the_thumbs_up(golden, close):
    file = golden("04d").view("sft.offset_none.sigmoid.")
    prediction = file["in.model_pred"].clone().requires_grad_()
    loss = (file["in.labels"].to(F64) * squared_error(prediction, file["in.noise"])).mean()
    close(loss, file["out.loss"])
    loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)


def test_start_is_one_half():
    error = torch.rand(6, dtype=F64, generator=torch.Generator().manual_seed(0))
    out = kto_loss(error, error, torch.arange(6) % 2 == 0, reference_point(error, error))
    assert out.loss == 0.5 and out.accuracy == 0.5 and out.desirable_gain == 0


def test_a_constant_gain_is_all_reference_point():
    ref = torch.tensor([0.5, 0.7], dtype=F64)
    error = (ref - 0.1).requires_grad_()
    out = kto_loss(error, ref, torch.ones(2, dtype=torch.bool), reference_point(error, ref), beta=10.0)
    assert out.loss.item() == pytest.approx(0.5)
    out.loss.backward()
    torch.testing.assert_close(error.grad, torch.full((2,), 10.0 / 4 / 2, dtype=F64))


def test_labels_push_in_opposite_ways_with_their_weights():
    error = torch.zeros(2, dtype=F64, requires_grad=True)
    zero, labels = torch.zeros(2, dtype=F64), torch.tensor([True, False])
    kto_loss(error, zero, labels, torch.zeros(()), 4.0, 1.0, 3.0).loss.backward()
    torch.testing.assert_close(error.grad, torch.tensor([0.5, -1.5], dtype=F64))


def test_micro_batches_given_the_reference_point_are_the_batch():
    g = torch.Generator().manual_seed(1)
    error, ref = (torch.rand(6, dtype=F64, generator=g) for _ in range(2))
    labels, point = torch.arange(6) % 2 == 0, reference_point(error, ref)
    whole = kto_loss(error, ref, labels, point, 5.0).loss
    parts = sum(len(e) / 6 * kto_loss(e, r, y, point, 5.0).loss
                for e, r, y in zip(*(t.split([1, 5]) for t in (error, ref, labels))))
    torch.testing.assert_close(whole, parts)


def test_the_reference_point_gets_no_gradient():
    error, point = torch.rand(3, dtype=F64).requires_grad_(), torch.zeros((), dtype=F64, requires_grad=True)
    kto_loss(error, error.detach() + 0.1, torch.tensor([True, False, True]), point, 3.0).loss.backward()
    assert error.grad.any() and point.grad is None
