"""Consistency distillation: exact on Gaussian data, and on ComfyUI's real modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gaussian_model import MEAN, VARIANCE, consistency_gain, gaussian_model, teacher_gain
from posttrain.trainers.add import ADD
from posttrain.trainers.engine.renoise import Renoised, noised, teacher_grid
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import Advantages
from posttrain.trainers.lcm import HUBER, LCM, target, way_of, x0_between
from posttrain.trainers.losses.lcm import consistency_loss
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.noise.paths import PATHS
from posttrain.trainers.noise.transitions import deterministic
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.levels import sigmas_of
from posttrain.trainers.sampling.rollout import Rollout, rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import ARCHITECTURES, PlainVAE, prompts_for, trained_policy

SMALL = Sampling(
    steps=6, width=64, height=64, prompts_per_iteration=2, images_per_prompt=2, batch_size=4, transition="deterministic"
)
EVERYTHING = torch.ones(4, dtype=torch.bool)


def made_by(policy, kind: str, guidance: float = 1.0) -> Rollout:
    return rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, guidance=guidance), 0)


STEPS, ROUNDS = 8, 300


def gaussian_policy(path: str):
    model = gaussian_model(path, lambda sampling: sigmas_of(sampling, "simple", STEPS)[:-1])
    return create_policy(model, Recipe(rank=1, alpha=1.0, pattern="gain"))


def gaussian_rollout(policy, count: int = 8) -> Rollout:
    """True data; no sampler is needed."""
    latents = MEAN + VARIANCE**0.5 * torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return Rollout(
        latents=latents,
        images=torch.zeros(count, 8, 8, 3),
        prompts=prompts_for("sd15"),
        index=torch.zeros(count, dtype=torch.int64),
        seeds=torch.arange(count),
        guidance=1.0,
        sigmas=teacher_grid(policy, STEPS),
        trajectory=None,
        batch_size=count,
    )


def answers(policy, sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """x0 of the policy for states x [N, C, H, W] at levels sigma [N]."""
    with open_policy(policy) as net:
        return net.denoise(x, sigma, prompts_for("sd15"), [0] * len(x), 1.0, net.to_device(policy.bank))


def gains(policy, sigma: torch.Tensor) -> torch.Tensor:
    """The student's f(x, sigma) = mean + gain (x - a mean), at each level."""
    a, _ = policy_path(policy).coefficients(sigma)
    x = (a * MEAN + 1).reshape(-1, 1, 1, 1).expand(-1, 4, 8, 8).contiguous()
    return (answers(policy, sigma, x) - MEAN).mean((1, 2, 3))


def policy_path(policy):
    with open_policy(policy) as net:
        return net.path


@pytest.mark.parametrize("path", ["flow", "eps", "v"])
def test_the_many_step_teacher_ends_where_the_exact_consistency_function_does(path):
    """What the student is held against below is itself right: it nears the exact function as steps are added."""
    sampling = gaussian_policy(path).model.get_model_object("model_sampling")
    errors = []
    for steps in (50, 100, 200):
        grid = sigmas_of(sampling, "simple", steps)
        exact = consistency_gain(PATHS[path], grid[:-1].double())
        errors.append(float((teacher_gain(PATHS[path], grid) / exact - 1).abs().max()))
    assert errors[0] > 1.6 * errors[1] > 2.5 * errors[2] and errors[2] < 0.06


def answers_wanted(path, way) -> torch.Tensor:
    """[N]: the gain of the x0 from each of the student's levels whose step ends where the teacher's steps do."""
    grid, found = way.grid, []
    for place in way.places(way.starts).tolist():
        goal = len(grid) - 1 if way.student else place + way.teacher
        (a, s), (a_end, s_end) = (path.coefficients(grid[i].double()) for i in (place, goal))
        factor = torch.ones((), dtype=torch.float64)
        for k in range(place, goal):
            (a_k, s_k), (a_next, s_next) = (path.coefficients(grid[i].double()) for i in (k, k + 1))
            share = VARIANCE * a_k / (a_k**2 * VARIANCE + s_k**2)
            factor = factor * (a_next * share + s_next * (1 - a_k * share) / s_k)
        found.append((factor - s_end / s) / (a_end - s_end / s * a))
    return torch.stack(found)


def exact_student(policy, way):
    """The policy whose answer at each of its levels leads to where the teacher's steps do."""
    path = policy_path(policy)
    a, s = path.coefficients(way.starts.double())
    wanted = (answers_wanted(path, way) - VARIANCE * a / (a**2 * VARIANCE + s**2)) * (1 + s)
    down, up = sorted(policy.bank)
    row = torch.zeros(1, STEPS)
    row[0, way.places(way.starts)] = wanted.float()
    bank = {down: row, up: torch.ones(1, 1)}
    assert {k: v.shape for k, v in bank.items()} == {k: v.shape for k, v in policy.bank.items()}
    return replace(policy, bank=bank)


@pytest.mark.parametrize("path", ["flow", "eps", "v"])
@pytest.mark.parametrize("student_steps", [0, 2])
def test_the_teachers_way_is_where_the_student_rests(path, student_steps):
    """There the loss is 0 at every level of the student's, and away from it the gradient leads back."""
    start = gaussian_policy(path)
    way = way_of(start, LCM(teacher_steps=STEPS, student_steps=student_steps))
    policy = exact_student(start, way)
    made, answer = gaussian_rollout(policy), answers_wanted(policy_path(policy), way).float()
    torch.testing.assert_close(gains(policy, way.starts), answer, rtol=1e-3, atol=1e-4)
    if not student_steps:
        torch.testing.assert_close(answer, teacher_gain(policy_path(policy), way.grid).float())
    ((*micros,),) = noised(made, torch.ones(8, dtype=torch.bool), len(way.starts), 1, 8, grid=way.starts)
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        down = min(bank)
        for micro in micros:
            question, level = Renoised(net, made, micro), int(way.places(micro.sigma[:1]))
            goal = target(question, bank, way, 1.0)
            assert float(consistency_loss(question.ask(bank), goal).loss.detach()) < 1e-6
            # at LCM's last level only the teacher's step counts
            for sign in (1, -1) if level < STEPS - 1 else ():
                with torch.no_grad():
                    bank[down][0, level] += sign * 0.2
                bank[down].grad = None
                net.gradients(lambda: (consistency_loss(question.ask(bank), goal).loss, {}), list(bank.values()))
                assert sign * float(bank[down].grad[0, level]) > 0
                with torch.no_grad():
                    bank[down][0, level] -= sign * 0.2


@pytest.mark.parametrize("path", ["flow", "eps", "v"])
def test_a_student_ends_in_its_few_steps_where_the_teacher_ends_in_many(path):
    start = gaussian_policy(path)
    way = way_of(start, LCM(teacher_steps=STEPS, student_steps=2))
    x = torch.full((1, 4, 8, 8), 0.7)
    ends = []
    for policy, grid in ((start, way.grid), (exact_student(start, way), torch.cat([way.starts, torch.zeros(1)]))):
        state = x
        for sigma, sigma_next in zip(grid[:-1, None], grid[1:, None]):
            state = deterministic()(PATHS[path], state, answers(policy, sigma, state), sigma, sigma_next).mean
        ends.append(state)
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)


def test_training_ends_at_the_teachers_whole_way():
    """One step of the student then has the spread of the teacher's many."""
    before = gaussian_policy("eps")
    path, made, after, grid = policy_path(before), gaussian_rollout(before), before, teacher_grid(before, STEPS)
    settings = Trainer(
        LCM(teacher_steps=STEPS, student_steps=0, levels=STEPS),
        Optimizer(learning_rate=0.3, decay=ROUNDS, weight_decay=0.0, max_grad_norm=0.0),
    )
    for _ in range(ROUNDS):
        after = train_step(after, made, None, settings)
    goal = teacher_gain(path, grid).float()
    assert (gains(before, grid[:-1]) / goal - 1).abs().max() > 0.5, "the teacher's single step must be far from it"
    torch.testing.assert_close(gains(after, grid[:-1]), goal, rtol=0.05, atol=1e-4)
    noise = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    a, s = path.coefficients(grid[0])
    spread = (a**2 * VARIANCE + s**2).sqrt()
    x = a * MEAN + spread * noise
    spreads = [float(answers(p, grid[:1].expand(64), x).std()) for p in (before, after)]
    assert spreads[1] == pytest.approx(float(goal[0] * spread), rel=0.05) and spreads[0] < 0.5 * spreads[1]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_student_nears_the_teacher_on_every_architecture(kind):
    """On the very states that it trained on, the distance to its (fixed) goal falls."""
    start = trained_policy(kind)
    made = made_by(start, kind)
    trainer = Trainer(LCM(teacher_steps=4, student_steps=0, levels=2), Optimizer(learning_rate=1e-3, updates=1))
    after = start
    for _ in range(3):
        after = replace(train_step(after, made, None, trainer), iteration=0)
    way = way_of(start, LCM(teacher_steps=4, student_steps=0))
    ((*micros,),) = noised(made, EVERYTHING, 2, 1, 4, grid=way.starts)
    with open_policy(start) as net:
        errors = [0.0, 0.0]
        for micro in micros:
            question, banks = Renoised(net, made, micro), [net.to_device(p.bank) for p in (start, after)]
            goal = target(question, banks[0], way, 1.0)
            for i, bank in enumerate(banks):
                errors[i] += float(consistency_loss(question.ask(bank), goal).error)
    assert errors[1] < errors[0]


@pytest.mark.parametrize("kind", ["sd15", "sd2_v", "sd3"])
@pytest.mark.parametrize(
    "own, sampled, student, evaluations",
    [(0.0, 1.0, 0, 3), (0.0, 3.0, 0, 4), (1.0, 3.0, 0, 3), (2.0, 1.0, 0, 4), (0.0, 1.0, 2, 6), (0.0, 3.0, 5, 5)],
)
def test_it_evaluates_no_more_than_it_needs_and_takes_the_rollouts_guidance(kind, own, sampled, student, evaluations):
    policy = trained_policy(kind)
    made = made_by(policy, kind, sampled)
    new = train_step(
        policy, made, None, Trainer(LCM(teacher_steps=10, student_steps=student, levels=3, guidance=own), Optimizer(updates=2))
    )
    assert new.metrics["update_evaluations"] == 4 * 3 * evaluations and new.metrics["rollout_evaluations"] == made.evaluations
    assert "reward_mean" not in new.metrics and new.iteration == 1


@pytest.mark.parametrize("kind", ["sd15", "sd2_v", "sd3"])
def test_the_gradient_is_that_of_the_distance_to_a_fixed_goal(kind):
    policy = trained_policy(kind, torch.float64)
    made = made_by(policy, kind)
    made = replace(made, latents=made.latents.double())
    way = way_of(policy, LCM(teacher_steps=4, student_steps=2))
    ((micro, *_),) = noised(made, EVERYTHING, 2, 1, 4, grid=way.starts)
    with open_policy(policy) as net:
        question = Renoised(net, made, micro)
        bank = net.to_device(policy.bank, train=True)
        goal = target(question, bank, way, 2.0)
        net.gradients(lambda: (consistency_loss(question.ask(bank), goal).loss, {}), list(bank.values()))
        direction = {k: torch.randn(v.shape, generator=torch.Generator().manual_seed(4)) for k, v in bank.items()}
        values = []
        for sign in (1, -1):
            moved = {k: v.detach() + sign * 3e-4 * direction[k] for k, v in bank.items()}
            values.append(float(consistency_loss(question.ask(moved), goal).loss))
        along = sum(float((bank[k].grad * direction[k]).sum()) for k in bank)
    assert along == pytest.approx((values[0] - values[1]) / 6e-4, rel=2e-3)


def test_the_last_level_is_held_by_the_teacher_alone():
    """From the last level the goal is the teacher's own answer, whatever the student says at sigma 0."""
    policy = trained_policy("sd3")
    made, way = made_by(policy, "sd3"), way_of(policy, LCM(teacher_steps=4, student_steps=0))
    ((*micros,),) = noised(made, EVERYTHING, 4, 1, 4, grid=way.starts)
    (last,) = [m for m in micros if bool((m.sigma == way.grid[-2]).all())]
    with open_policy(policy) as net:
        question = Renoised(net, made, last)
        goal = target(question, net.to_device(policy.bank), way, 1.0)
        torch.testing.assert_close(goal, question.ask(None), rtol=0, atol=1e-5)


def test_as_many_steps_as_the_teachers_is_the_teacher_itself():
    """Whatever the student says: with student steps the goal is the teacher's alone."""
    policy = trained_policy("sd3")
    made, way = made_by(policy, "sd3"), way_of(policy, LCM(teacher_steps=4, student_steps=4))
    ((*micros,),) = noised(made, EVERYTHING, 4, 1, 4, grid=way.starts)
    with open_policy(policy) as net:
        for micro in micros:
            question = Renoised(net, made, micro)
            torch.testing.assert_close(target(question, None, way, 1.0), question.ask(None), rtol=0, atol=1e-4)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_x0_between_two_states_is_the_one_that_leads_from_one_to_the_other(path):
    generator = torch.Generator().manual_seed(6)
    x, x0 = (torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    sigma, goal = torch.tensor([0.9, 0.5, 0.5], dtype=torch.float64), torch.tensor([0.5, 0.2, 0.0], dtype=torch.float64)
    end = deterministic()(path, x, x0, sigma, goal).mean
    torch.testing.assert_close(x0_between(path, x, end, sigma, goal), x0)


def test_the_levels_are_the_papers_or_the_students_own():
    policy = trained_policy("sd15")
    way = way_of(policy, LCM(teacher_steps=50, student_steps=0))
    table = policy.model.get_model_object("model_sampling").sigmas
    assert torch.equal(way.starts, table[torch.arange(999, 0, -20)]) and (way.teacher, way.student) == (1, True)
    few = way_of(policy, LCM(teacher_steps=8, student_steps=4))
    assert torch.equal(few.starts, teacher_grid(policy, 4)[:-1]) and (few.teacher, few.student) == (2, False)
    assert few.places(few.starts).tolist() == [0, 2, 4, 6]


def test_images_made_once_get_new_noise_in_every_iteration():
    policy = trained_policy("sd3")
    made, trainer = made_by(policy, "sd3"), Trainer(LCM(teacher_steps=4, student_steps=0), Optimizer(learning_rate=0.0))
    losses = [train_step(replace(policy, iteration=i), made, None, trainer).metrics["loss"] for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def advantages_for(count: int) -> Advantages:
    zero = torch.zeros(count, dtype=torch.float64)
    return Advantages(
        zero, torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.int64), {"reward_mean": 0.5, "failed": 0.0}
    )


@pytest.mark.parametrize("settings", [LCM(teacher_steps=4, student_steps=0, levels=1), ADD(levels=1)])
def test_an_image_that_is_not_a_number_is_left_out_and_counted(settings):
    policy = trained_policy("sd3")
    run = made_by(policy, "sd3")
    for broken, updates in ((1, 1), (4, 0)):
        latents = run.latents.clone()
        latents[:broken] = torch.nan
        new = train_step(policy, replace(run, latents=latents), None, Trainer(settings, Optimizer()))
        assert new.metrics["failed"] == broken and new.metrics["updates"] == updates
    assert new.metrics["skipped_updates"] == 1 and all(torch.equal(new.bank[k], policy.bank[k]) for k in policy.bank)


def test_scores_are_shown_and_change_nothing():
    """Also where all are equal, which would stop a trainer that learns from them."""
    policy = trained_policy("sd3")
    made, trainer = made_by(policy, "sd3"), Trainer(LCM(teacher_steps=4, student_steps=0), Optimizer())
    with_scores, without = (train_step(policy, made, f, trainer) for f in (advantages_for(4), None))
    assert with_scores.metrics["reward_mean"] == 0.5 and with_scores.metrics["updates"] == 1
    assert all(torch.equal(with_scores.bank[k], without.bank[k]) for k in without.bank)


@pytest.mark.parametrize(
    "settings, words",
    [
        (LCM(teacher_steps=1), "teacher steps"),
        (LCM(teacher_steps=16, student_steps=3), "student steps: 3 does not divide"),
        (LCM(huber=0.0), "huber"),
        (LCM(levels=0), "levels"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    policy = trained_policy("sd3")
    with pytest.raises(ValueError, match=words):
        train_step(policy, made_by(policy, "sd3"), None, Trainer(settings, Optimizer()))


def test_guidance_without_a_negative_prompt_is_named():
    policy = trained_policy("sd3")
    made = made_by(policy, "sd3")
    made = replace(made, prompts=replace(made.prompts, negative=None))
    with pytest.raises(ValueError, match="negative prompt"):
        train_step(policy, made, None, Trainer(LCM(teacher_steps=4, student_steps=0, guidance=3.0), Optimizer()))


def test_other_trainers_still_ask_for_their_feedback():
    policy = trained_policy("sd3")
    made = made_by(policy, "sd3")
    with pytest.raises(ValueError, match="NFT learns from advantages, but it was given nothing; use the node Advantages"):
        train_step(policy, made, None, Trainer(NFT(), Optimizer()))
    with pytest.raises(ValueError, match="3 values for 4 samples"):
        train_step(policy, made, advantages_for(3), Trainer(LCM(), Optimizer()))


def test_the_teacher_is_guided_and_the_student_is_not():
    """One step of the guided teacher down, and the student's own answer to its prompts from there."""
    policy = trained_policy("sd15")
    made, way = made_by(policy, "sd15"), way_of(policy, LCM(teacher_steps=3, student_steps=0))
    ((*micros,),) = noised(made, EVERYTHING, 3, 1, 4, grid=way.starts)
    with torch.no_grad(), open_policy(policy) as net:
        bank, prompts = net.to_device(policy.bank), made.prompts
        for place, sigma in enumerate(way.starts[:-1]):
            (micro,) = [m for m in micros if bool((m.sigma == sigma).all())]
            question, index = Renoised(net, made, micro), made.index[micro.rows]
            x0, sigma_next = net.denoise(question.x, micro.sigma, prompts, index, 3.0, None), way.grid[place + 1].expand(4)
            x = question.x + (sigma_next - sigma).reshape(-1, 1, 1, 1) * (question.x - x0) / sigma
            wanted = net.denoise(x, sigma_next, prompts, index, 1.0, bank)
            torch.testing.assert_close(target(question, bank, way, 3.0), wanted, rtol=1e-4, atol=1e-4)


def test_the_official_constant_of_the_distance():
    assert HUBER == 0.001
