"""What goes to other computers and what may come back; tests/host/test_other_computers.py has the real ones."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base import ranks
from posttrain.rewards.base.reward import RewardUnavailable, Scores
from posttrain.tests.unit.trainers.usual_settings import usual
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import Advantages, advantages
from posttrain.trainers.feedback.labels import Labels, labels
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.feedback.step_pairs import StepPreferences
from posttrain.trainers.methods import METHODS, OWN_IMAGES, TRAJECTORY, Trainer, train_step
from posttrain.trainers.prompts import Texts
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.servers import computers as module
from posttrain.trainers.servers.computers import Computers, Drawn
from posttrain.trainers.servers.drawing import LATENTS
from posttrain.trainers.servers.graph import Source
from posttrain.trainers.servers.rollout import checked, rollout_by_computers
from small_models import PlainVAE, prompts_for, trained_policy

SMALL = Sampling(steps=2, width=64, height=64, prompts_per_iteration=2, images_per_prompt=2)
SOURCE = Source({}, ("1", 0), ("1", 1))


def nobody(model) -> Computers:
    return Computers(("http://127.0.0.1:9",), model, SOURCE, seconds=5.0)


def asked(policy, computers=None, prompts=None, missed=None, **settings):
    prompts, sampling = prompts or replace(prompts_for("sd3"), texts=Texts("")), replace(SMALL, **settings)
    return rollout_by_computers(policy, prompts, PlainVAE(), sampling, computers or nobody(policy.model), missed=missed)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(transition="flow_sde"), "transition: flow_sde makes random steps"),
        (dict(transition="flow_sde", noise_level=0.7), "transition: flow_sde"),
        (dict(same_start=True), "same start: without random steps"),
    ],
)
def test_what_a_ksampler_does_not_do_is_refused(settings, words):
    given = replace(SMALL, **{"noise_level": 0.5} | settings)
    with pytest.raises(ValueError, match=words):
        checked(given, given)


def test_what_is_left_open_or_without_noise_is_done_without_random_steps():
    for settings in (
        dict(),
        dict(transition="deterministic"),
        dict(transition="ddim"),
        dict(open=("transition",), transition="x"),
    ):
        quiet = checked(replace(SMALL, **settings), SMALL)
        assert (quiet.transition, quiet.noise_level) == ("deterministic", 0.0)


def test_another_model_and_prompts_of_unknown_texts_are_refused():
    policy = trained_policy("sd3")
    with pytest.raises(ValueError, match="computers: Other Computers was given another MODEL than Create Policy"):
        asked(policy, nobody(policy.model.clone()))
    with pytest.raises(ValueError, match="prompts: .* Encode Prompts"):
        asked(policy, prompts=prompts_for("sd3"))


def test_of_several_processes_the_first_one_asks_and_the_others_are_handed_its_latents(monkeypatch):
    """Prompts, seeds and levels are those of a rollout here."""
    policy, latents = trained_policy("sd3"), torch.randn(4, 16, 8, 8)
    monkeypatch.setattr(
        ranks, "of_first", lambda what, make: Drawn({LATENTS: latents}, 1.0)
    )  # as on a process that is not the first
    made = asked(policy)
    here = rollout(policy, made.prompts, PlainVAE(), replace(SMALL, transition="deterministic"))
    assert torch.equal(made.latents, latents) and made.images.shape == here.images.shape and made.trajectory is None
    for name in ("index", "seeds", "sigmas"):
        assert torch.equal(getattr(made, name), getattr(here, name)), name
    assert (made.guidance, made.batch_size, made.evaluations) == (here.guidance, here.batch_size, here.evaluations)


def test_a_computer_whose_images_others_drew_is_told_of(monkeypatch):
    drawn, told = Drawn({LATENTS: torch.randn(4, 16, 8, 8)}, 1.0, (("http://a", "it does not answer"),)), []
    monkeypatch.setattr(ranks, "of_first", lambda what, make: drawn)
    asked(trained_policy("sd3"), missed=lambda *words: told.append(words))
    assert told == [("http://a", "it does not answer")]


FEEDBACK = {Advantages: advantages, Preferences: preferences, Labels: labels, None: lambda scores: None}


@pytest.mark.parametrize("kind", [kind for kind, method in METHODS.items() if method.needs != OWN_IMAGES])
def test_trainers_of_finished_images_learn_from_it_and_those_of_likelihoods_do_not(kind, monkeypatch):
    policy, latents = trained_policy("sd3"), torch.randn(4, 16, 8, 8)
    monkeypatch.setattr(ranks, "of_first", lambda what, make: Drawn({LATENTS: latents}, 1.0))
    made, trainer = asked(policy, steps=12), Trainer(usual(kind, policy), Optimizer(learning_rate=1e-3))
    learns_from = METHODS[kind].learns_from
    scores = Scores(torch.arange(4.0).double(), made.index, {}, {})
    feedback = FEEDBACK[Advantages if learns_from is StepPreferences else learns_from](scores)
    if METHODS[kind].needs == TRAJECTORY:
        with pytest.raises(ValueError, match="no step was random|SPO learns from"):
            train_step(policy, made, feedback, trainer)
        return
    new = train_step(policy, made, feedback, trainer)
    assert new.metrics["updates"] > 0 and any(not torch.equal(new.bank[key], policy.bank[key]) for key in policy.bank)


def test_where_nobody_is_left_the_run_pauses():
    with pytest.raises(
        RewardUnavailable, match="none of the other computers is left, after 0 of 2 prompts' images. http://127"
    ):
        asked(trained_policy("sd3"))


def test_a_cancel_is_heard_while_computers_are_looked_at(monkeypatch):
    """One takes the connection and says nothing."""

    def cancelled():
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "cancel_point", cancelled)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        computers = Computers((f"http://127.0.0.1:{silent.getsockname()[1]}",), None, SOURCE)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            computers.ready()
    assert time.monotonic() - started < 2
