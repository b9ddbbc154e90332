"""Trainers of other packs: what they may leave out, and what is refused by name."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tools.host import ROOT
from posttrain.trainers.engine.other_packs import LEARNS_FROM, NEEDS, TOOLS
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.methods import Trainer, adopted, name_of, train_step
from posttrain.trainers.rwr import RWR
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, trained_policy


class Plain:
    """Plain fine-tuning on all images: reward-weighted regression with sharpness 0."""

    optimizer = {"learning_rate": 1e-3}

    def step(self, tools, policy, made, feedback, optimizer, progress):
        def evaluate(net, bank, micro):
            noisy = tools.Renoised(net, made, micro)
            return noisy.error(noisy.ask(bank)).mean(), {}

        return tools.update(
            policy,
            tools.noised(made, tools.usable(made), 4, optimizer.updates, made.batch_size),
            evaluate,
            optimizer,
            progress=progress,
        )


@pytest.fixture(scope="module")
def case():
    policy = trained_policy("sd3")
    made = rollout(
        policy,
        prompts_for("sd3"),
        PlainVAE(),
        Sampling(width=16, height=16, steps=4, prompts_per_iteration=2, images_per_prompt=4, batch_size=8),
        0,
    )
    values = torch.arange(8.0, dtype=torch.float64)
    return policy, made, advantages(Scores(values, made.index, {"r": values}, {}))


def test_it_trains_as_the_same_method_of_ours(case):
    theirs, ours = (train_step(*case, trainer) for trainer in (Plain(), Trainer(RWR(sharpness=0.0), Optimizer(1e-3))))
    assert theirs.iteration == 1 and theirs.metrics["updates"] == 1
    assert all(torch.equal(theirs.bank[key], ours.bank[key]) for key in ours.bank)


def test_what_it_leaves_out_is_filled_in():
    found = adopted(SimpleNamespace(step=print))
    assert found.optimizer == Optimizer() and name_of(found) == "SimpleNamespace"
    assert (found.settings.learns_from, found.settings.needs) == (LEARNS_FROM["advantages"], "latents")


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"step": None}, "trainer: mine is no trainer"),
        ({"learns_from": "pears"}, "'pears' as learns_from; known are advantages"),
        ({"needs": "its own images"}, "'its own images' as needs; known are latents, trajectory"),
        ({"optimizer": {"rate": 1}}, "'rate' as optimizer; known are learning_rate"),
        ({"optimizer": {"learning_rate": -1.0}}, "learning rate: -1.0 is not possible"),
        ({"learns_from": "pairs"}, "mine learns from pairs of images, but it was given advantages"),
        ({"step": lambda *_: None}, "the step of mine answered NoneType; it must answer the new policy"),
    ],
)
def test_what_it_gets_wrong_is_said(case, changed, words):
    with pytest.raises(ValueError, match=words):
        train_step(*case, SimpleNamespace(**{"name": "mine", "step": print} | changed))


def test_it_gets_the_random_steps_that_it_asks_for(case):
    policy, made, feedback = case
    trainer = SimpleNamespace(name="mine", needs="trajectory", step=lambda tools, policy, *_: policy)
    with pytest.raises(ValueError, match="random"):
        train_step(policy, replace(made, trajectory=None), feedback, trainer)


def test_the_page_lists_what_there_is():
    page = (ROOT / "docs" / "other_packs.md").read_text(encoding="utf-8")
    tools = page.split("`tools` holds")[1]
    assert not [name for name in vars(TOOLS) if f"`{name}(" not in tools]
    assert all(f"`{word}`" in page for word in (*LEARNS_FROM, *NEEDS))
