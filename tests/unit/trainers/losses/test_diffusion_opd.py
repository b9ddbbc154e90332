"""DiffusionOPD against the official code's numbers, its own gradient, and teachers dealt out."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.diffusion_opd import domains, opd_loss
from posttrain.trainers.noise.paths import FLOW
from posttrain.trainers.noise.transitions import flow_sde

F64 = torch.float64


def steps_of(file):
    """std [S] of the file's random steps, by our own transition, and their lengths; the file computes in float32."""
    sigmas = file["in.sigmas"].double()
    steps, shift = int(file.const("num_steps")), file.const("shift")

    def shifted(level):
        return shift * level / (1 + (shift - 1) * level)

    # diffusers' schedule: the least of its thousand levels is shifted twice
    torch.testing.assert_close(sigmas[:-1], shifted(torch.linspace(1, shifted(1e-3), steps, dtype=F64)), atol=1e-6, rtol=1e-5)
    places = file["in.step_index"]
    sigma, sigma_next = sigmas[places], sigmas[places + 1]
    x = torch.zeros(len(sigma), 1, dtype=F64)
    return flow_sde(file.const("eta"))(FLOW, x, x, sigma, sigma_next).std, sigma - sigma_next


def each_step(student, teacher, variance=None):
    """[B, S] and the mean over both, [B, S, ...] as the file has them."""
    one = [
        [
            opd_loss(student[b : b + 1, s], teacher[b : b + 1, s], None if variance is None else variance[s : s + 1]).loss
            for s in range(student.shape[1])
        ]
        for b in range(len(student))
    ]
    return torch.stack([torch.stack(row) for row in one])


@pytest.mark.parametrize("case", ["mean_matching", "kl"])
def test_golden(golden, close, case):
    file = golden("11a").view(f"{case}.")
    student = file["in.student_means"].double().requires_grad_()
    std, _ = steps_of(file)
    if case == "kl":
        close(std, file["out.sigma_t"].double(), 1e-5)
    else:
        assert (file["out.sigma_t"] == 1).all()
    found = each_step(student, file["in.teacher_means"].double(), std.square() if case == "kl" else None)
    close(found, file["out.per_sample_step"], 2e-5)
    close(found.mean(), file["out.loss"], 2e-5)
    found.mean().backward()
    close(student.grad, file["grad.student_means"], 2e-5)


@pytest.mark.parametrize("case", ["script_ode", "script_sde", "script_two_teachers"])
def test_golden_of_the_script(golden, close, case):
    """Its random steps are divided by a variance without the step's length, which is put back here; teachers are summed."""
    file = golden("11a").view(f"{case}.")
    student = file["in.student_means"].double().requires_grad_()
    teachers = [file["in.teacher_means"]] + ([file["in.second_teacher_means"]] if case == "script_two_teachers" else [])
    variance = None
    if case == "script_sde":
        std, delta = steps_of(file)
        variance = std.square() / delta
        close(variance.sqrt(), file["out.std_dev_t"].double(), 1e-5)
    found = torch.stack([each_step(student, teacher.double(), variance) for teacher in teachers], 1)
    close(found, file["out.per_sample_teacher_step"], 2e-5)
    of_step = found.sum(1).mean(0)
    close(of_step, file["out.loss_of_step"], 2e-5)
    of_step.mean().backward()
    close(student.grad, file["grad.student_means_of_mean_over_steps"], 2e-5)


def test_a_deterministic_step_weighs_its_own_length():
    """Why predictions are compared by default: means of Euler steps differ by the step's length times the velocities."""
    generator = torch.Generator().manual_seed(0)
    v, w = (torch.randn(2, 3, 4, dtype=F64, generator=generator) for _ in range(2))
    delta = torch.tensor([0.04, 0.27], dtype=F64).view(2, 1, 1)
    by_mean = [opd_loss(-(delta * v)[i : i + 1], -(delta * w)[i : i + 1]).loss for i in range(2)]
    plain = [opd_loss(v[i : i + 1], w[i : i + 1]).loss for i in range(2)]
    torch.testing.assert_close(torch.stack(by_mean) / torch.stack(plain), delta.flatten().square())


def test_the_gradient_is_that_of_the_loss_and_the_teacher_has_none():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 2, 4, dtype=F64, generator=generator).requires_grad_() for _ in range(2))
    variance = torch.tensor([0.5, 1.0, 2.0], dtype=F64)
    assert torch.autograd.gradcheck(lambda s: opd_loss(s, teacher, variance).loss, student)
    opd_loss(student, teacher, variance).loss.backward()
    assert teacher.grad is None


def test_a_step_without_noise_has_no_kl():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="'exact KL' divides by the variance"):
        opd_loss(x, x, torch.tensor([1.0, 0.0]))


def test_each_prompt_has_its_teacher_and_several_share_it():
    fits = torch.tensor([[True, False, False], [False, True, True], [True, True, True]])
    prompts = torch.tensor([0, 1, 1, 2, 2, 2, 0])
    draw = torch.tensor([0.99, 0.49, 0.51, 0.0, 0.4, 0.999999, 0.0])
    assert domains(prompts, fits, draw).tolist() == [0, 1, 2, 0, 1, 2, 0]
    many = domains(torch.full((3000,), 1), fits, torch.rand(3000, generator=torch.Generator().manual_seed(2)))
    assert set(many.tolist()) == {1, 2} and abs((many == 1).float().mean() - 0.5) < 0.05
