from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.awm import awm_loss
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.losses.nft import nft_loss, old_policy_decay, optimality
from posttrain.trainers.noise.paths import FLOW

F64 = torch.float64
MODES = {
    "all": lambda a: a, "positive_only": lambda a: a.clamp(min=0), "negative_only": lambda a: a.clamp(max=0),
    "one_only": lambda a: (a > 0).to(a.dtype), "binary": torch.sign,
}


@pytest.mark.parametrize("case", ["beta0.all", "beta1.all"] + [f"beta0.{m}" for m in MODES if m != "all"])
def test_golden(golden, close, case):
    file = golden("05a").view(case + ".")
    beta, mode = case.split(".")
    clip = file.const("adv_clip_max")
    v, t = file["in.forward_prediction"].clone().requires_grad_(), file["in.t"]
    close(FLOW.add_noise(file["in.x0"], file["in.noise"], t), file["in.xt"])
    x0, x0_old = (FLOW.x0(file["in.xt"], p, t) for p in (v, file["in.old_prediction"]))
    advantages = MODES[mode](file["in.advantages"].clamp(-clip, clip))
    close(optimality(advantages, clip), file["out.r"])
    kl = squared_error(v, file["in.ref_prediction"])
    out = nft_loss(x0, x0_old, file["in.x0"], advantages, file.const(beta), clip, kl, file.const("kl_weight"))
    close(out.loss, file["out.loss"])
    # the reference adds the KL into its policy_loss in place before reporting it
    close(out.policy_loss + file.const("kl_weight") * out.kl, file["out.policy_loss"])
    if mode == "all":
        each = [nft_loss(x0[i:i + 1], x0_old[i:i + 1], file["in.x0"][i:i + 1], advantages[i:i + 1], file.const(beta), clip)
                for i in range(len(v))]
        close(torch.stack([one.loss for one in each]), file["out.per_sample"] * clip)
        close(out.kl, file["out.kl_div_loss"])
        for side, sign in (("positive", 1), ("negative", -1)):  # each error over its own size, the file's weight factor
            mixed = x0_old + sign * file.const(beta) * (x0 - x0_old)
            errors = squared_error(mixed, file["in.x0"]) / torch.stack([getattr(one, side) for one in each])
            close(errors, file["out." + ("negative_" if sign < 0 else "") + "weight_factor"])
        close(out.positive, file["out.positive_loss"].mean())
        close(out.negative, file["out.negative_loss"].mean())
    out.loss.backward()
    close(v.grad, file["grad.forward_prediction"], 1e-6)


def test_decay_golden(golden):
    file = golden("05a")
    for kind, setting in enumerate([(0, 0, 0), (0, 1e-3, 0.5), (75, 0.0075, 0.999)]):
        ours = [old_policy_decay(step, *setting) for step in file["in.decay_steps"].tolist()]
        assert ours == pytest.approx(file[f"out.old_policy_decay_type{kind}"].tolist())


def batch(seed=0, n=4):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 4, 4, dtype=F64, generator=g) for _ in range(2)]


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_at_the_old_policy_the_gradient_is_advantage_weighted_matching(beta):
    x0, data = batch()
    x0.requires_grad_()
    advantages = torch.tensor([2.0, -1.0, 0.0, 9.0], dtype=F64)
    out = nft_loss(x0, x0.detach(), data, advantages, beta)
    torch.testing.assert_close(out.positive, out.negative)
    (ours,) = torch.autograd.grad(out.loss, x0)
    weight = (x0 - data).detach().abs().flatten(1).mean(1)
    (direct,) = torch.autograd.grad((advantages.clamp(-5, 5) * squared_error(x0, data) / weight).mean(), x0)
    torch.testing.assert_close(ours, direct)
    assert ours[2].abs().max() < 1e-15, "advantage 0, r 1/2: no gradient"
    log_prob = -squared_error(x0, data) / weight
    (awm,) = torch.autograd.grad(awm_loss(log_prob, log_prob, advantages.clamp(-5, 5)).loss, x0)
    torch.testing.assert_close(ours, awm)


def test_the_best_images_with_beta_one_are_plain_fine_tuning():
    x0, data = batch()
    x0.requires_grad_()
    out = nft_loss(x0, batch(1)[0], data, torch.full((4,), 5.0, dtype=F64), beta=1.0)
    weight = (x0 - data).detach().abs().flatten(1).mean(1)
    torch.testing.assert_close(out.loss, 5 * (squared_error(x0, data) / weight).mean())


def test_kl_weight_needs_a_kl():
    x0, data = batch()
    with pytest.raises(ValueError, match="kl: missing"):
        nft_loss(x0, x0, data, torch.zeros(4, dtype=F64), kl_weight=1e-4)


def test_only_the_policy_and_the_kl_get_gradient():
    x0, data = batch()
    leaves = [v.clone().requires_grad_() for v in (x0, x0 + 0.1)]
    nft_loss(leaves[0], leaves[1], data, torch.ones(4, dtype=F64)).loss.backward()
    assert leaves[0].grad.any() and leaves[1].grad is None
