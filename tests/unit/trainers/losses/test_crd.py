"""CRD against the official code's numbers, and what centring and the first gradient are by themselves."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.crd import copy_decay
from posttrain.trainers.losses.crd import LEAST_KL, adaptive_error, centred, crd_loss, kl_weights, pools
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.losses.nft import optimality

F64 = torch.float64
CASES = ["default", "bce", "temperature", "temperature_bce", "plain_error", "even_kl"]


class Case:
    """The file's batch; ``loss`` of rows, with means over the groups of all rows that are given."""

    def __init__(self, file, name: str):
        self.file, self.name = file, name
        self.v = file["in.policy_v"].clone().requires_grad_()
        noise, x0 = file["in.noise"], file["in.x0"]
        assert noise.shape == x0.shape and file["in.t"].shape == (8,), "the state itself is not looked at"
        self.target = noise - x0
        guidance = file.const("kl_cfg")
        self.reference = file["in.ref_uncond_v"] + guidance * (file["in.ref_cond_v"] - file["in.ref_uncond_v"])
        self.external = optimality(file["in.advantages"].clamp(-5, 5), file.const("adv_clip"))
        error = squared_error if name == "plain_error" else adaptive_error
        self.implicit = error(file["in.old_v"], self.target) - error(self.v, self.target)
        self.kl = squared_error(self.v, self.reference)

    def loss(self, groups, rows=slice(None)):
        file, external = self.file, self.external
        weight = file.const("kl_beta")
        kl = (torch.full_like(external, weight) if self.name == "even_kl" else kl_weights(external, weight)) * self.kl
        temperature = file.const("softmax_temp") if "temperature" in self.name else 0.0
        pairs = [
            (centred(self.implicit, groups, pool)[rows], centred(external, groups, pool)[rows])
            for pool in pools(external, groups, temperature)
        ]
        form = "choices" if "bce" in self.name else "squares"
        return crd_loss(pairs, file.const("crd_beta"), file.const("adv_clip"), form, kl[rows])


@pytest.mark.parametrize("name", CASES)
def test_golden_centred_over_the_batch(golden, close, name):
    """As the official code gathers it: one group."""
    file = golden("09a").view(f"{name}.")
    case = Case(file, name)
    out = case.loss(torch.zeros(8, dtype=torch.int64))
    assert file.const("base_kl_beta") == pytest.approx(LEAST_KL)
    close(case.target, file["out.target_v"])
    close(case.reference, file["out.ref_v"])
    close(case.implicit, file["out.implicit_reward"])
    close(out.loss, file["out.loss"])
    close(out.policy_loss, file["out.policy_loss"])
    close(out.policy_loss * file.const("crd_beta") / file.const("adv_clip"), file["out.unscaled_policy_loss"])
    close(out.kl, file["out.kl_loss"])
    out.loss.backward()
    close(case.v.grad, file["grad.policy_v"])
    if name == "default":
        close(case.external, file["out.external_reward"])
        close(case.kl, file["out.kl"])
        for v, weight in ((file["in.old_v"], "weight_old"), (file["in.policy_v"], "weight_policy")):
            close(squared_error(v, case.target) / adaptive_error(v, case.target), file[f"out.{weight}"])


def test_golden_centred_in_the_prompt(golden, close):
    file = golden("09a").view("per_prompt.")
    case = Case(file, "default")
    groups = file["in.prompt_id"]
    out = case.loss(groups)
    close(out.loss, file["out.loss"])
    out.loss.backward()
    close(case.v.grad, file["grad.policy_v"])
    close(torch.stack([case.loss(groups, groups == k).loss for k in (0, 1)]), file["out.loss_of_prompt"])


def test_golden_of_a_part_of_the_batch_with_the_means_of_all(golden, close):
    file = golden("09a").view("micro.")
    case = Case(file, "default")
    out = case.loss(torch.zeros(8, dtype=torch.int64), slice(0, 3))
    close(out.loss, file["out.loss"])
    close(out.policy_loss, file["out.policy_loss"])
    out.loss.backward()
    close(case.v.grad[:3], file["grad.policy_v"])
    assert not case.v.grad[3:].any()


SCHEDULES = {
    "old_default": (0.25, 0.005, 0.999),
    "sampling_default": (0, 0.0075, 0.999, 75),
    "medium": (0, 0.0075, 0.999, 75),
    "slow": (0, 0.001, 0.5),
    "moderate": (0, 0.01, 0.5),
    "fast": (0, 0.02, 0.99),
    "offline": (1, 0, 1),
    "preset0": (0, 0, 0),
    "preset1": (0, 0.001, 0.5),
    "preset2": (0, 0.0075, 0.999, 75),
    "preset3": (1, 0, 1),
    "preset4": (0, 0.02, 0.99),
    "preset5": (0, 0.01, 0.5),
    "preset6": (0, 0.0075, 0.999),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_golden_of_the_copies(golden, name):
    file = golden("09b")
    ours = [copy_decay(step, *SCHEDULES[name]) for step in file["in.step"].tolist()]
    assert ours == pytest.approx(file[f"out.decay_{name}"].tolist())


def batch(rows: int = 6):
    generator = torch.Generator().manual_seed(0)
    v, target = (torch.randn(rows, 2, 4, dtype=F64, generator=generator) for _ in range(2))
    return v.requires_grad_(), target, torch.rand(rows, dtype=F64, generator=generator)


GROUPS = torch.tensor([4, 4, 9, 9, 9, 4])


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_at_the_old_policy_the_gradient_is_advantage_weighted_matching(beta):
    """With the external reward less its prompt's mean as the advantage, whatever beta is."""
    v, target, external = batch()
    error = adaptive_error(v, target)
    (even,) = pools(external, GROUPS)
    wanted = centred(external, GROUPS, even)
    out = crd_loss([(centred(error.detach() - error, GROUPS, even), wanted)], beta)
    (ours,) = torch.autograd.grad(out.loss, v, retain_graph=True)
    (direct,) = torch.autograd.grad((2 * 5 * wanted * error).mean(), v)
    torch.testing.assert_close(ours, direct)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_a_number_of_the_prompts_own_changes_nothing(temperature):
    v, target, external = batch()
    implicit = -adaptive_error(v, target)
    own = torch.tensor([0.7, 0.7, -3.0, -3.0, -3.0, 0.7], dtype=F64)
    for pool in pools(external, GROUPS, temperature):
        torch.testing.assert_close(centred(implicit + own, GROUPS, pool), centred(implicit, GROUPS, pool))
        for group in (4, 9):
            assert pool[group == GROUPS].sum().item() == pytest.approx(1.0)
            assert (pool * centred(implicit, GROUPS, pool))[group == GROUPS].sum().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("form", ["squares", "choices"])
def test_the_gradient_is_that_of_the_loss_with_its_means_held_still(form):
    v, target, external = batch()
    (even,) = pools(external, GROUPS)
    mean = (-adaptive_error(v, target) - centred(-adaptive_error(v, target), GROUPS, even)).detach()
    size = (v - target).detach().abs().flatten(1).mean(1)

    def held(v):  # means and sizes as they were
        implicit = -squared_error(v, target) / size - mean
        return crd_loss([(implicit, centred(external, GROUPS, even))], 1.5, form=form, kl=squared_error(v, 0 * target)).loss

    ours = crd_loss(
        [(centred(-adaptive_error(v, target), GROUPS, even), centred(external, GROUPS, even))],
        1.5,
        form=form,
        kl=squared_error(v, 0 * target),
    ).loss
    torch.testing.assert_close(*(torch.autograd.grad(loss, v)[0] for loss in (ours, held(v))))
    assert torch.autograd.gradcheck(held, v)


def test_the_best_images_are_held_hardest():
    assert kl_weights(torch.tensor([0.0, 0.5, 1.0]), 0.1).tolist() == pytest.approx([1e-4, 0.05005, 0.1])
    assert kl_weights(torch.tensor([0.0, 1.0]), 1e-5).tolist() == pytest.approx([1e-5, 1e-5])
    assert not kl_weights(torch.tensor([0.0, 1.0]), 0.0).any()
