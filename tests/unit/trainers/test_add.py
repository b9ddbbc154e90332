"""Adversarial distillation on ComfyUI's real modules: gradients, counts, what is kept, and who wins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussian_model import MEAN, VARIANCE, gaussian_model
from posttrain.tests.unit.trainers.judges.adversarial_cases import made_by
from posttrain.trainers.add import ADD, DISCRIMINATOR, SHARE, duels, student_grid, teacher_answer, train_add, trust
from posttrain.trainers.engine.renoise import Noised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.paths import PATHS, noise_share
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.levels import sigmas_of
from posttrain.trainers.sampling.rollout import Rollout
from small_models import prompts_for, trained_policy


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_students_bank_moves_by_the_verdict_alone(low_memory):
    """Without the teacher's term, in one step and with the same outcome where activations are dropped."""
    policy = trained_policy("sd3")
    made = made_by(policy, "sd3")
    new = train_step(policy, made, None, Trainer(ADD(distill_weight=0.0), Optimizer(low_memory=low_memory)))
    plain = train_step(policy, made, None, Trainer(ADD(distill_weight=0.0), Optimizer()))
    assert all((new.bank[k] - policy.bank[k]).abs().max() > 0 for k in policy.bank if "context_block" not in k)
    assert all(torch.allclose(new.bank[k], plain.bank[k], atol=2e-4) for k in new.bank)
    assert new.metrics["grad_norm"] == pytest.approx(plain.metrics["grad_norm"], rel=1e-3)


def test_the_discriminator_learns_to_tell_and_the_student_to_fool():
    """First the heads alone (the student stands still), then the student alone against them."""
    policy = trained_policy("sd3")
    made = made_by(policy, "sd3")
    made = replace(made, latents=made.latents * 0.5 + 1.0)  # real pictures of another kind than the student draws
    watch = Trainer(ADD(discriminator_rate=3e-3), Optimizer(learning_rate=0.0, weight_decay=0.0))
    told = policy
    for _ in range(12):
        told = replace(train_step(told, made, None, watch), iteration=0)
    assert told.metrics["real_logit"] - told.metrics["fake_logit"] > 1.0
    assert told.metrics["discriminator_loss"] < 1.0
    play = Trainer(ADD(discriminator_rate=1e-12, distill_weight=0.0), Optimizer(learning_rate=3e-3))
    fooled = told
    for _ in range(12):
        fooled = replace(train_step(fooled, made, None, play), iteration=0)
    assert fooled.metrics["fake_logit"] > told.metrics["fake_logit"] + 0.5


def of_latents(policy, latents: torch.Tensor) -> Rollout:
    """A rollout of these latents [B, 4, 8, 8], all of the first prompt."""
    count = len(latents)
    return Rollout(
        latents=latents,
        images=torch.zeros(count, 8, 8, 3),
        prompts=prompts_for("sd15"),
        index=torch.zeros(count, dtype=torch.int64),
        seeds=torch.arange(count),
        guidance=1.0,
        sigmas=student_grid(policy, 4),
        trajectory=None,
        batch_size=count,
    )


@pytest.mark.parametrize("path", ["flow", "eps", "v"])
def test_the_teachers_answer_is_the_posterior_mean_of_a_noised_answer(path):
    """On Gaussian data it is known: mean + share (x - a mean)."""
    policy = create_policy(
        gaussian_model(path, lambda sampling: sigmas_of(sampling, "simple", 4)[:-1]), Recipe(rank=1, alpha=1.0, pattern="gain")
    )
    x0 = MEAN + torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    sigma, noise = student_grid(policy, 4)[[1, 3]], torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    made = of_latents(policy, x0)
    with open_policy(policy) as net:
        answer = teacher_answer(net, made, Noised(torch.arange(2), sigma, noise, True), x0, 1.0)
    a, s = (part.reshape(-1, 1, 1, 1) for part in PATHS[path].coefficients(sigma))
    x = a * x0 + s * noise
    torch.testing.assert_close(answer, MEAN + VARIANCE * a / (a**2 * VARIANCE + s**2) * (x - a * MEAN), rtol=1e-3, atol=1e-3)


def test_the_teacher_is_trusted_by_how_much_picture_it_was_shown():
    sigma = torch.tensor([0.25, 0.75])
    assert trust(PATHS["flow"], sigma).tolist() == [0.75, 0.25]
    torch.testing.assert_close(trust(PATHS["eps"], torch.tensor([0.0, 1.0, 3.0])), torch.tensor([1.0, 0.5**0.5, 0.1**0.5]))


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize("own, sampled, evaluations", [(0.0, 1.0, 4), (0.0, 3.0, 5), (1.0, 3.0, 4)])
def test_it_evaluates_no_more_than_it_says(kind, own, sampled, evaluations):
    policy = trained_policy(kind)
    made = made_by(policy, kind, sampled)
    first = train_step(policy, made, None, Trainer(ADD(levels=3, guidance=own), Optimizer(updates=2)))
    second = train_step(first, made, None, Trainer(ADD(levels=3, guidance=own), Optimizer(updates=2)))
    assert first.metrics["update_evaluations"] == 4 * 3 * evaluations + 1
    assert second.metrics["update_evaluations"] == 4 * 3 * evaluations


def test_a_resumed_run_goes_on_bit_for_bit():
    """The heads, their moments and their count of steps go through a checkpoint's tensors."""
    policy = trained_policy("sd3")
    made, trainer = made_by(policy, "sd3"), Trainer(ADD(levels=2), Optimizer(learning_rate=1e-3, average=0.9))
    halfway = train_step(train_step(policy, made, None, trainer), made, None, trainer)
    straight = train_step(halfway, made, None, trainer)
    resumed = train_step(trained_policy("sd3").with_state(*halfway.state()), made, None, trainer)
    (tensors, meta), (again, meta_again) = straight.state(), resumed.state()
    assert meta == meta_again and tensors.keys() == again.keys()
    assert all(torch.equal(tensors[k], again[k]) for k in tensors)
    heads = [k for k in tensors if k.startswith(f"copy/{DISCRIMINATOR}")]
    assert any(k.endswith("exp_avg_sq") for k in heads) and any(k.endswith("out.weight") for k in heads)
    assert all(not torch.equal(tensors[k], halfway.state()[0][k]) for k in heads), "all of it is alive"


def test_what_is_exported_holds_no_heads():
    policy = trained_policy("sd3")
    new = train_step(policy, made_by(policy, "sd3"), None, Trainer(ADD(levels=1), Optimizer()))
    assert new.bank.keys() == policy.bank.keys() and new.optimizer.keys() == {
        f"{k}.{m}" for k in policy.bank for m in ("exp_avg", "exp_avg_sq")
    }


def test_the_student_is_asked_at_its_own_steps_and_judged_within_bounds():
    policy = trained_policy("sd15")
    made = made_by(policy, "sd15")
    grid = student_grid(policy, 2)
    (micros,) = duels(policy, made, ADD(student_steps=2, levels=2), 1)
    assert {float(s) for duel in micros for s in duel.student.sigma} == {float(s) for s in grid}
    shares = torch.cat([noise_share(PATHS["eps"], duel.judge.sigma) for duel in micros])
    assert shares.min() >= SHARE[0] - 1e-6 and shares.max() <= SHARE[1] + 1e-6 and len(shares.unique()) > 4
    low, high = (
        torch.cat(
            [
                noise_share(PATHS["eps"], duel.judge.sigma)
                for duel in duels(policy, made, ADD(levels=4, judge_noise=middle), 1)[0]
            ]
        ).median()
        for middle in (0.2, 0.7)
    )
    assert low < 0.4 < 0.5 < high
    again = duels(policy, made, ADD(student_steps=2, levels=2), 1)[0][0]
    assert torch.equal(again.teacher.noise, micros[0].teacher.noise) and torch.equal(again.judge.sigma, micros[0].judge.sigma)
    assert not torch.equal(again.teacher.noise, again.judge.noise) and not torch.equal(again.teacher.noise, again.student.noise)


def test_images_made_once_get_new_noise_in_every_iteration():
    policy = trained_policy("sd3")
    made, trainer = made_by(policy, "sd3"), Trainer(ADD(), Optimizer(learning_rate=0.0))
    losses = [train_step(replace(policy, iteration=i), made, None, trainer).metrics["distill"] for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "settings, words",
    [
        (ADD(student_steps=0), "student steps"),
        (ADD(discriminator_rate=0.0), "discriminator rate"),
        (ADD(levels=0), "levels"),
        (ADD(judge_noise=1.0), "judge noise"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    policy = trained_policy("sd3")
    with pytest.raises(ValueError, match=words):
        train_step(policy, made_by(policy, "sd3"), None, Trainer(settings, Optimizer()))


def test_a_network_without_blocks_is_named():
    policy = create_policy(
        gaussian_model("flow", lambda sampling: sigmas_of(sampling, "simple", 4)[:-1]),
        Recipe(rank=1, alpha=1.0, pattern="gain"),
    )
    made = of_latents(policy, torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="no repeated blocks"):
        train_add(policy, made, None, ADD(), Optimizer())


def test_these_draws_stay_as_they_are():
    """A run that is taken up again goes on with the numbers that it would have drawn."""
    policy = trained_policy("sd3")
    made = replace(made_by(policy, "sd3"), iteration=3, seeds=torch.tensor([5, 6, 7, 8]))
    duel = duels(policy, made, ADD(levels=2, judge_noise=0.7), 1)[0][1]
    row = duel.student.rows.tolist().index(2)
    found = [float(part[row]) for micro in (duel.teacher, duel.judge) for part in (micro.sigma, micro.noise[:, 0, 0, 0])]
    assert found == pytest.approx([0.9897959232, 0.0778024942, 0.7331514359, -1.4640156031])


def test_the_teacher_is_asked_at_any_of_a_hundred_levels_and_the_discriminator_between_two_shares():
    policy = trained_policy("sd3")
    made = replace(made_by(policy, "sd3"), batch_size=4)

    def levels(**settings):
        (micros,) = duels(policy, made, ADD(levels=60, **settings), 1)
        return [torch.cat([getattr(duel, name).sigma for duel in micros]) for name in ("teacher", "judge")]

    fine = sigmas_of(policy.model.get_model_object("model_sampling"), "simple", 100)
    teacher, low = levels(judge_noise=0.001)
    assert set(teacher.tolist()) <= set(fine[:-1].tolist()) and len(teacher.unique()) > 80
    assert low.unique().tolist() == pytest.approx([0.05])
    _, high = levels(judge_noise=0.999)
    assert high.unique().tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("own, sampled, guidance", [(0.0, 3.0, 3.0), (2.0, 3.0, 2.0)])
def test_the_loss_is_the_verdict_the_distance_from_the_teacher_and_the_heads_own(own, sampled, guidance):
    """By hand for flow: the distance from the teacher's answer counts 1 - sigma."""
    policy = trained_policy("sd3")
    made, settings = made_by(policy, "sd3", sampled), ADD(levels=1, guidance=own, distill_weight=3.0)
    found = train_step(policy, made, None, Trainer(settings, Optimizer())).metrics
    ((duel,),) = duels(policy, made, settings, 1)
    with torch.no_grad(), open_policy(policy) as net:
        micro, index = duel.student, made.index[duel.student.rows]
        shares = [part.sigma.reshape(-1, 1, 1, 1) for part in (micro, duel.teacher)]
        x = (1 - shares[0]) * made.latents[micro.rows] + shares[0] * micro.noise
        x0 = net.denoise(x, micro.sigma, made.prompts, index, 1.0, net.to_device(policy.bank))
        x = (1 - shares[1]) * x0 + shares[1] * duel.teacher.noise
        teacher = net.denoise(x, duel.teacher.sigma, made.prompts, index, guidance, None)
    distance = float(((1 - shares[1]) * (x0 - teacher).square()).mean())
    assert distance > 1e-3 and found["distill"] == pytest.approx(distance, rel=1e-3)
    assert found["loss"] == pytest.approx(found["adversarial"] + 3 * found["distill"] + found["discriminator_loss"], rel=1e-5)


def test_the_distance_from_the_teacher_moves_the_student_and_the_heads_gradients_are_not_cut():
    policy = trained_policy("sd3")
    made = made_by(policy, "sd3")
    without, much = (
        train_step(policy, made, None, Trainer(ADD(levels=1, distill_weight=weight, r1_weight=1e3), Optimizer()))
        for weight in (0.0, 1e4)
    )
    assert much.metrics["grad_norm"] > 100 * without.metrics["grad_norm"] > 0
    moments = [value for key, value in much.anchors[f"{DISCRIMINATOR} moments"].items() if key.endswith("exp_avg")]
    assert 10 * float(torch.cat([value.flatten() for value in moments]).norm()) > 2
