from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from posttrain.trainers.losses.dgpo import dgpo_loss, gate, group_weights
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.noise.paths import FLOW

F64 = torch.float64
GROUPS = torch.tensor([3, 3, 3, 7, 7, 7])


def batch():
    g = torch.Generator().manual_seed(0)
    error, ref = (torch.rand(6, dtype=F64, generator=g) for _ in range(2))
    advantages = torch.randn(2, 3, dtype=F64, generator=g)
    return error.requires_grad_(), ref, (advantages - advantages.mean(1, keepdim=True)).flatten()


def test_gradient_is_that_of_the_group_preference():
    """-log sigmoid(-S_g) summed over groups, divided by beta and scaled to a mean over samples."""
    error, ref, a = batch()
    beta, size = 7.0, 3
    s = (a * beta * (error - ref) / size).reshape(2, size).sum(1)
    (direct,) = torch.autograd.grad(-F.logsigmoid(-s).sum(), error)
    (ours,) = torch.autograd.grad(dgpo_loss(error, a, group_weights(error, ref, a, GROUPS, beta)).loss, error)
    torch.testing.assert_close(ours, direct * size / beta / 6)


def test_weights_are_one_half_at_the_start_and_shared_in_a_group():
    error, ref, a = batch()
    assert group_weights(error, error, a, GROUPS).tolist() == [0.5] * 6
    weights = group_weights(error, ref, a, GROUPS)
    assert weights[:3].unique().numel() == 1 and weights[0] != weights[3] and not weights.requires_grad


def test_micro_batches_given_the_weights_are_the_batch():
    error, ref, a = batch()
    weights = group_weights(error, ref, a, GROUPS)
    whole = dgpo_loss(error, a, weights, kl=ref, kl_weight=0.1).loss
    parts = sum(
        len(e) / 6 * dgpo_loss(e, v, w, kl=r, kl_weight=0.1).loss
        for e, v, w, r in zip(*(t.split([2, 4]) for t in (error, a, weights, ref))))
    torch.testing.assert_close(whole, parts)


def test_gate_stops_what_went_far_enough_and_keeps_the_value():
    error = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=F64, requires_grad=True)
    old = torch.tensor([0.6, 0.4, 0.6, 0.4], dtype=F64)
    a = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64)
    gated = gate(error, old, a, 1e-2)
    assert gated.tolist() == [True, False, False, True]
    weights = torch.full((4,), 0.5, dtype=F64)
    out = dgpo_loss(error, a, weights, gated)
    assert out.loss == dgpo_loss(error, a, weights).loss and out.gated_fraction == 0.5
    out.loss.backward()
    assert (error.grad == 0).tolist() == gated.tolist()


def test_an_advantage_of_nothing_is_gated_as_a_bad_one():
    """Its error has no weight in the loss; the share that is reported counts it on the side of what is pushed away."""
    error, old = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.6, 0.4], dtype=F64)
    assert gate(error, old, torch.zeros(2, dtype=F64), 1e-2).tolist() == [False, True]


@pytest.mark.parametrize("case", ["guided", "unguided", "ema_reference", "gated_kl", "no_gate"])
def test_golden(golden, close, case):
    """The reference of score and KL with guidance and without; the fast copy in its place; the KL gated, too; no gate."""
    file = golden("15").view(f"{case}.")
    ema = case == "ema_reference"
    beta, clip, weight = (file.const(name) for name in (
        ("ema_beta_dpo", "ema_clip_range", "ema_kl_weight") if ema else ("beta_dpo", "clip_range", "kl_weight")))
    guidance = 1.0 if ema or case == "unguided" else file.const("kl_cfg")
    reference = file["in.ref_uncond_v"] + guidance * (file["in.ref_cond_v"] - file["in.ref_uncond_v"])
    if case in ("guided", "unguided"):
        close(reference, file["out.ref_v"])
    groups = file["in.prompt_tokens"].unique(dim=0, return_inverse=True)[1]
    same = groups[:, None] == groups[None]
    assert torch.equal(same, file["out.group_of_sample"][:, None] == file["out.group_of_sample"][None])
    assert (same.sum(1) == file.const("group_size")).all()
    noise = file["out.noise"]
    assert torch.equal(noise, file["in.group_noise"][file["out.group_of_sample"]]), "a group shares its noise"
    close(FLOW.add_noise(file["in.x0"], noise, file["in.t"] / 1000), file["out.xt"])
    target = FLOW.target(file["in.x0"], noise, file["in.t"] / 1000)
    close(target, file["out.target_v"])
    v = file["in.policy_v"].clone().requires_grad_()
    error, old = squared_error(v, target), squared_error(file["in.old_v"], target)
    compared = old if ema else squared_error(reference, target)
    advantages = file["in.advantages"].clamp(-file.const("adv_clip_max"), file.const("adv_clip_max"))
    weights = group_weights(error, compared, advantages, groups, beta)
    gated, kl = None if case == "no_gate" else gate(error, old, advantages, clip), squared_error(v, reference)
    if case == "gated_kl":  # ours never is, as the official code's by default
        kl = torch.where(gated, kl.detach(), kl)
    out = dgpo_loss(error, advantages, weights, gated, kl, weight)
    close(error, file["out.error"])
    close(compared, file["out.ref_error"])
    close(out.policy_loss, file["out.policy_loss"])
    close(out.kl, file["out.kl"])
    close(out.loss, file["out.loss"])
    if gated is not None:
        assert gated.tolist() == file["out.gated"].bool().tolist()
        close((old - error).exp(), file["out.ratio"])
    out.loss.backward()
    close(v.grad, file["grad.policy_v"])


def test_golden_of_the_noisiest_levels(golden):
    """The official candidates are the first 7 of 10 steps, for GenEval 5: our share of the steps, 0.7 and 0.5."""
    file = golden("15")
    steps, shift = int(file.const("num_steps")), file.const("shift")
    for share, name, last in ((0.7, "candidates", "trunc_steps"), (0.5, "candidates_geneval", "trunc_steps_geneval")):
        count = max(1, round(share * steps))
        assert file[f"levels.out.{name}"].tolist() == list(range(count)) == list(range(int(file.const(last)) + 1))
    drawn = file["levels.out.example_draw"].tolist()
    assert len(set(drawn)) == file.const("levels_drawn") and max(drawn) <= file.const("trunc_steps")
    assert file["levels.in.dpm_timesteps"][6] == 666 and file["levels.in.euler_timesteps"][3].item() == pytest.approx(
        1000 * shift * (e := 1 - (1 - 3e-3 / 1.002) / 3) / (1 + (shift - 1) * e), rel=1e-4)
