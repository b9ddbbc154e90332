"""DiffusionOPD on ComfyUI's real modules: teachers laid over the model, the student's own states, what is refused."""

from __future__ import annotations

from dataclasses import replace

import comfy.sd
import pytest
import torch
from one_answer import host_answer, inputs
from posttrain.rewards.base.reward import Prompt
from posttrain.tests.unit.trainers.rollouts import made
from posttrain.tests.unit.trainers.usual_settings import turned_round
from posttrain.trainers.diffusion_opd import WEIGHTINGS, DiffusionOPD, Teacher, compared, fitting, guest_of, visits, walked
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.transitions import gaussian_kl
from posttrain.trainers.policy import Recipe, create_policy, lora_state_dict, open_policy
from posttrain.trainers.policy.value import REFERENCE
from small_models import ARCHITECTURES, prompts_for, small_model, trained_policy

PLAIN = {"transition": "deterministic", "steps": 5}
EVERY_LAYER = "all linear layers and convolutions"


def lora_of(policy, **recipe) -> dict[str, torch.Tensor]:
    """A LoRA file for the same model, of other ranks and layers than the policy's."""
    other = create_policy(policy.model, Recipe(**{"rank": 2, "alpha": 3.0, "seed": 5, "targets": EVERY_LAYER} | recipe))
    generator = torch.Generator().manual_seed(11)
    bank = {
        key: torch.randn(value.shape, generator=generator) * 0.1 if not value.any() else value
        for key, value in other.bank.items()
    }
    return lora_state_dict(replace(other, bank=bank))


def stepped(policy, run, teachers, weighting=WEIGHTINGS[0], **optimizer):
    return train_step(policy, run, None, Trainer(DiffusionOPD(weighting, tuple(teachers)), Optimizer(**optimizer)))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_teacher_is_the_lora_as_the_hosts_loader_applies_it(kind):
    """Also beside a student of another rank on fewer layers, whose own weights and reference it leaves alone."""
    model = trained_policy(kind).model
    student = create_policy(model, Recipe(rank=3, targets="attention"))
    lora = lora_of(student, kind="LoKr" if kind == "sd3" else "LoRA")
    x, sigma = inputs(kind)
    loaded, _ = comfy.sd.load_lora_for_models(model, None, dict(lora), 1.0, 0)
    with open_policy(student, guests=[guest_of(student, Teacher("file", lora))]) as net:
        bank = net.to_device(student.bank)
        before, taught, base = (
            net.denoise(x, sigma, prompts_for(kind), [0, 0], 1.0, each) for each in (bank, net.guests[0], None)
        )
    torch.testing.assert_close(taught, host_answer(loaded, kind, x, sigma, 1.0), rtol=1e-4, atol=1e-4)
    assert (taught - base).abs().max() > 1e-3 and torch.equal(base, host_answer(model, kind, x, sigma, 1.0))
    torch.testing.assert_close(before, base, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd15", "sd2_v", "sd3"])
def test_the_student_nears_its_teacher_and_a_teacher_learns_nothing(kind):
    policy, run = made(kind, **PLAIN)
    lora = lora_of(policy)
    trainer = Trainer(DiffusionOPD(teachers=(Teacher("file", lora),)), Optimizer(learning_rate=3e-3))
    errors, after = [], policy
    for _ in range(6):
        after = train_step(replace(after, iteration=0), run, None, trainer)
        errors.append(after.metrics["teacher_error"])
    assert errors[-1] < 0.7 * errors[0]
    own = Teacher("itself", policy=policy)
    assert stepped(policy, run, [own]).metrics["teacher_error"] < 1e-10, "where student and teacher agree there is no error"


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_loss_is_the_formula_at_the_states_of_the_rollout(kind, weighting):
    """Written again from the sampler's own numbers; and its gradient by finite differences."""
    policy, run = made(kind, trained_policy(kind, torch.float64), steps=4)
    there, teacher = run.trajectory, turned_round(policy)
    settings = DiffusionOPD(weighting, (teacher,))
    way = walked(policy, run)
    assert torch.equal(way.states, there.states[:, :-1])
    ((micros),) = visits(run, way, torch.ones(2, 1, dtype=torch.bool), 1)
    visit = micros[1]
    with open_policy(policy, guests=[guest_of(policy, teacher)]) as net:
        bank = net.to_device(policy.bank, train=True)
        net.gradients(lambda: (compared(net, bank, run, way, visit, settings).loss, {}), list(bank.values()))
        direction = {k: torch.randn(v.shape, generator=torch.Generator().manual_seed(4)) for k, v in bank.items()}
        values = []
        for sign in (1, -1):
            moved = {k: v.detach() + sign * 1e-3 * direction[k] for k, v in bank.items()}
            values.append(float(compared(net, moved, run, way, visit, settings).loss))
        slope = sum(float((bank[k].grad * direction[k]).sum()) for k in bank)
        assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=5e-3)
        loss = float(compared(net, bank, run, way, visit, settings).loss.detach())
        x, index = way.states[visit.rows, visit.step], run.index[visit.rows]
        sigma, sigma_next = (there.sigmas[k].expand(len(x)) for k in (visit.step, visit.step + 1))
        with torch.no_grad():
            answers = [net.denoise(x, sigma, run.prompts, index, 1.0, each) for each in (bank, net.guests[0])]
        steps = [way.transition(net.path, x, x0, sigma, sigma_next) for x0 in answers]
        wanted = {
            "predictions": ((answers[0] - answers[1]) / sigma.view(-1, 1, 1, 1)).square().mean() / 2,
            "step means": (steps[0].mean - steps[1].mean).square().mean() / 2,
            "exact KL": gaussian_kl(steps[0].mean, steps[1].mean, steps[0].std).mean(),
        }
        assert loss == pytest.approx(float(wanted[weighting]), rel=1e-5)


def test_without_random_steps_it_goes_the_samplers_own_way():
    """From the rollout's noise it would end in the rollout's picture; it starts anew in each iteration instead."""
    policy, run = made("sd3", **PLAIN)
    way = walked(policy, run)
    assert way.states.shape[:2] == (8, 4) and torch.equal(way.sigmas, run.sigmas[:5])
    later = walked(policy, replace(run, iteration=1))
    assert not torch.equal(way.states, later.states) and torch.equal(way.states, walked(policy, run).states)
    with open_policy(policy) as net:
        for k in range(3):
            x, sigma = way.states[:4, k], run.sigmas[k].expand(4)
            x0 = net.denoise(x, sigma, run.prompts, run.index[:4], 1.0, net.to_device(policy.bank))
            next_x = x + (run.sigmas[k + 1] - run.sigmas[k]) * (x - x0) / run.sigmas[k]
            torch.testing.assert_close(way.states[:4, k + 1], next_x, rtol=1e-4, atol=1e-4)


def test_each_prompt_is_taught_by_its_own_teacher():
    """A batch of both prompts, the answers of both teachers in it."""
    policy, run = made("sd3", batch_size=8, **PLAIN)
    teachers = (turned_round(policy, words=("ONE",)), Teacher("file", lora_of(policy)))
    fits = fitting(tuple(t.words for t in teachers), ("one", "two"))
    assert fits.tolist() == [[True, False], [False, True]]
    ((visit, *_),) = visits(run, walked(policy, run), fits, 1)
    assert torch.equal(visit.teacher, run.index)
    both = stepped(policy, run, teachers, learning_rate=0.0).metrics["teacher_error"]
    alone = [stepped(policy, run, [replace(t, words=())], learning_rate=0.0).metrics["teacher_error"] for t in teachers]
    assert min(alone) < both < max(alone)


@pytest.mark.parametrize("student, teacher, evaluations", [(1.0, 0.0, 3), (3.0, 0.0, 6), (3.0, 1.0, 5), (1.0, 3.0, 4)])
def test_it_evaluates_no_more_than_it_needs(student, teacher, evaluations):
    """Each image at 4 steps: the student's walk, its own answer and its teacher's."""
    policy, run = made("sd3", guidance=student, **PLAIN)
    new = stepped(policy, run, [turned_round(policy, guidance=teacher)])
    assert new.metrics["update_evaluations"] == 8 * 4 * evaluations


def test_a_teacher_of_the_model_below_the_reference():
    """Where the reference is itself a LoRA, a teacher is still laid over the model alone."""
    policy, run = made("sd3", **PLAIN)
    anchored = replace(policy, anchors={REFERENCE: policy.bank})
    teacher = Teacher("file", lora_of(policy, targets="attention"))
    errors = [stepped(p, run, [teacher], learning_rate=0.0).metrics["teacher_error"] for p in (policy, anchored)]
    assert errors[0] == errors[1]


def test_words_are_whole_words_in_any_case_and_anywhere_without_spaces():
    words = (("red", "two balls"), ("红",), ())
    found = fitting(words, ("a Red ball", "a bored man", "TWO BALLS", "一个红球", "two"))
    assert found.int().tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


REFUSED = {
    "no teacher": (lambda policy: (), "connect the node LoRA Teacher"),
    "no teacher for a prompt": (lambda policy: [turned_round(policy, words=("one",))], "prompt two holds no teacher's words"),
    "another MODEL": (lambda policy: [turned_round(trained_policy("sd3"))], "on another MODEL than the student's"),
    "another architecture": (lambda policy: [Teacher("f", lora_of(trained_policy("sd15")))], "teacher: f: .*choose a LoRA for"),
    "guidance": (lambda policy: [turned_round(policy, guidance=-1.0)], "guidance: -1.0 is not possible"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case):
    teachers, words = REFUSED[case]
    policy, run = made("sd3", **PLAIN)
    with pytest.raises(ValueError, match=words):
        stepped(policy, run, teachers(policy))


def test_weightings_are_refused_where_they_have_no_meaning():
    policy, run = made("sd3", **PLAIN)
    with pytest.raises(ValueError, match="no step was random"):
        stepped(policy, run, [turned_round(policy)], "exact KL")
    with pytest.raises(ValueError, match="weighting: unknown 'mine'"):
        stepped(policy, run, [turned_round(policy)], "mine")


def test_a_prompt_of_the_negative_kind_is_no_ones():
    """The rows of the fits are the prompts of the set, however few of them the rollout has."""
    policy, run = made("sd3", prompts_per_iteration=1, **PLAIN)
    more = replace(
        run.prompts, prompts=(*run.prompts.prompts, Prompt("three")), positive=(*run.prompts.positive, run.prompts.negative)
    )
    assert stepped(policy, replace(run, prompts=more), [turned_round(policy)]).metrics["updates"] == 1


def test_the_same_model_loaded_twice_is_another_one():
    policy = trained_policy("sd3")
    clone = replace(policy, model=policy.model.clone())
    assert guest_of(policy, Teacher("clone", policy=clone)).bank is policy.bank
    patched = policy.model.clone()
    patched.add_patches({"diffusion_model.x_embedder.proj.weight": (torch.zeros(1),)})
    for model in (patched, small_model("sd3")):
        with pytest.raises(ValueError, match="another MODEL"):
            guest_of(policy, Teacher("other", policy=replace(policy, model=model)))
