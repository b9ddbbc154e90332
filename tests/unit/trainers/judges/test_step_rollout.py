"""The rollout that compares candidates of each step, on ComfyUI's real modules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.judges.step_cases import SMALL, Brightness, contrast, fresh_policy
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.judges.step_reward import noised_states, score_latents, train_step_reward
from posttrain.trainers.judges.step_rollout import Candidates, step_rollout
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import open_policy
from posttrain.trainers.spo import SPO
from small_models import PlainVAE, prompts_for, small_vae, trained_policy


def stepped(kind: str, judge=None, policy=None, **options):
    policy = policy or trained_policy(kind)
    candidates = Candidates(**{"count": 3, "threshold": 0.0, **options.pop("candidates", {})})
    run, pairs = step_rollout(
        policy, prompts_for(kind), PlainVAE(), replace(SMALL, **options), 0, judge or Brightness(), candidates
    )
    return policy, run, pairs


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_candidates_share_their_state_and_the_best_and_worst_are_the_pair(kind):
    policy, run, pairs = stepped(kind, guidance=2.0)
    assert run.trajectory.states.shape[1] == 4 and len(pairs.rows) == 8 * 3 and pairs.stats["kept_share"] == 1
    assert bool((pairs.margin > 0).all())
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for which, states in (("winner", pairs.winner), ("loser", pairs.loser)):
            x0 = net.denoise(states, run.trajectory.sigmas[pairs.steps + 1], run.prompts, run.index[pairs.rows], 2.0, bank)
            found = PlainVAE().decode(policy.model.model.process_latent_out(x0)).clamp(0, 1).mean((1, 2, 3))
            best = found if which == "winner" else best - found
    torch.testing.assert_close(best, pairs.margin, rtol=1e-2, atol=1e-4)
    reached = run.trajectory.states[pairs.rows, pairs.steps + 1]
    is_winner, is_loser = ((reached == states).flatten(1).all(1) for states in (pairs.winner, pairs.loser))
    assert bool(is_winner.any()) and bool(is_loser.any()) and not bool((is_winner | is_loser).all()), "goes on at random"


@pytest.mark.parametrize("guidance, factor", [(1.0, 1), (2.0, 2)])
def test_judging_estimates_costs_one_evaluation_of_each_candidate(guidance, factor):
    _, run, _ = stepped("sd3", guidance=guidance)
    assert run.evaluations == factor * (8 + 3 * 3 * 8), "the chosen candidate's estimate serves the next step"


def start_of_a_judge(policy):
    data, scores = contrast("sd3", 2)
    pairs = preferences(scores)
    return train_step_reward(policy, data, lambda path: noised_states(data, pairs, path, 1), 1)


def test_a_step_reward_judges_without_decoding():
    policy = fresh_policy("sd3")
    judge = start_of_a_judge(policy)
    _, run, found = stepped("sd3", judge, policy)
    assert run.evaluations == 4 * 8 + 3 * 3 * 8 and math.isfinite(found.stats["reward_mean"])
    new = train_step(policy, run, found, Trainer(SPO(), Optimizer(learning_rate=1e-3)))
    assert new.metrics["loss"] == pytest.approx(math.log(2), abs=1e-6) and new.metrics["pairs"] == len(found.rows)


def test_spo_makes_the_preferred_candidates_likelier():
    policy, run, pairs = stepped("sd3", policy=fresh_policy("sd3"))
    trainer = Trainer(SPO(), Optimizer(learning_rate=3e-4))
    first = train_step(policy, run, pairs, trainer)
    second = train_step(first, run, pairs, trainer).metrics
    assert second["winner_gain"] > second["loser_gain"] and second["accuracy"] > 0.7
    assert first.metrics["update_evaluations"] == 2 * len(pairs.rows)


def test_pairs_of_which_the_judge_is_unsure_are_left_out():
    margins = stepped("sd3")[2].margin
    sure = (margins * 10 / 2).tanh().sort().values
    line = float(sure[12:14].mean())
    _, _, pairs = stepped("sd3", candidates={"threshold": line, "sharpness": 10.0})
    assert len(pairs.rows) == len(margins) - 13 == 11


def test_a_judge_that_fails_leaves_no_pair():
    class Broken(Brightness):
        def __call__(self, images, prompts):
            return torch.full((len(images),), torch.nan)

    policy, run, pairs = stepped("sd3", Broken())
    assert len(pairs.rows) == 0 and pairs.stats["failed"] == 8
    assert train_step(policy, run, pairs, Trainer(SPO(), Optimizer())).metrics["updates"] == 0


def test_the_same_iteration_compares_the_same_candidates():
    first, again = stepped("sd3"), stepped("sd3")
    assert torch.equal(first[2].winner, again[2].winner) and torch.equal(first[1].latents, again[1].latents)


def test_a_window_of_random_steps_is_honoured():
    _, run, pairs = stepped("sd3", steps=6, first_noisy_step=2, noisy_steps=2)
    assert run.trajectory.steps == 2 and set(pairs.steps.tolist()) == {0, 1}
    assert torch.equal(run.trajectory.sigmas, run.sigmas[2:5])
    assert run.evaluations == 8 * 3 + 2 * 3 * 8 + 8, "steps 0, 1, 2, then two judged ones, then the last"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"candidates": {"count": 1}}, "candidates"),
        ({"candidates": {"threshold": 1.0}}, "threshold"),
        ({"candidates": {"sharpness": 0.0}}, "sharpness"),
        ({"transition": "deterministic"}, "no step is random"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        stepped("sd3", **options)


@pytest.mark.parametrize("keep_means", [True, False])
@pytest.mark.parametrize("by_states", [True, False])
def test_what_it_needs_is_said_before_it_samples(keep_means, by_states):
    told, calls, policy = [], [], fresh_policy("sd3")
    judge = start_of_a_judge(policy) if by_states else Brightness()
    run, pairs = step_rollout(
        policy,
        prompts_for("sd3"),
        small_vae("sd3"),
        SMALL,
        0,
        judge,
        Candidates(3, 0.0),
        keep_means=keep_means,
        tell=lambda need: told.append((need, len(calls))),
        progress=lambda *_: calls.append(1),
    )
    ((need, before),) = told
    steps, compared = run.trajectory, 3 * run.latents.nbytes if by_states else 3 * (2 * run.latents.nbytes + run.images.nbytes)
    assert before == 0 and need.states == steps.states.nbytes and need.images == run.images.nbytes
    assert need.means == (steps.means.nbytes if keep_means else 0) and (steps.means is None) != keep_means
    assert need.candidates == compared + pairs.winner.nbytes + pairs.loser.nbytes and "candidates" in need.words()


def test_candidates_that_do_not_fit_are_refused_before_anything_is_sampled():
    calls = []
    with pytest.raises(ValueError, match="sampling: A rollout holds .* candidates and their pairs .* are free"):
        step_rollout(
            fresh_policy("sd3"),
            prompts_for("sd3"),
            PlainVAE(),
            replace(SMALL, width=4096, height=4096),
            0,
            Brightness(),
            Candidates(2**14),
            progress=lambda *_: calls.append(1),
        )
    assert not calls


def test_it_works_as_nodes_run_it():
    with torch.inference_mode():
        policy, run, pairs = stepped("sd3", policy=fresh_policy("sd3"))
        new = train_step(policy, run, pairs, Trainer(SPO(), Optimizer()))
        data, scores = contrast("sd3", 2)
        found = preferences(scores)
        judge = train_step_reward(policy, data, lambda path: noised_states(data, found, path, 1), 1)
        assert score_latents(policy, data, judge).values.isfinite().all()
    assert new.metrics["updates"] == 1


def test_one_random_step_for_each_prompt_is_refused():
    with pytest.raises(ValueError, match="window: 'one step for each prompt' leaves each image one random step"):
        stepped("sd3", window="one step for each prompt")
