"""A trained layer that gets no gradient although the picture depends on it is named in the first step."""

from __future__ import annotations

import sys
from dataclasses import replace

import comfy.ldm.modules.attention
import pytest
import torch
from posttrain.rewards.base.reward import score_rollout
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers import every_method
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.reach import check_reach
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, backprop_step, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, small_model, small_vae

SAMPLING = Sampling(steps=3, width=32, height=32, prompts_per_iteration=1, images_per_prompt=4, batch_size=4)
REWARD = ColourReward("brightness")


@pytest.fixture
def without_backward(monkeypatch):
    """An attention that computes the same and passes no gradient on, in the networks' modules, where no override of the host
    sees it; so packs put one that patch the host."""
    original = comfy.ldm.modules.attention.optimized_attention
    for name, module in list(sys.modules.items()):
        for attribute, value in list(vars(module).items()) if name.startswith("comfy.ldm.") else ():
            if value is original:
                monkeypatch.setattr(module, attribute, lambda *args, **kwargs: original(*args, **kwargs).detach())


def stepped(model, kind: str, settings, recipe: Recipe):
    policy, prompts = create_policy(model, recipe), prompts_for(kind)
    trainer = Trainer(settings, Optimizer(learning_rate=1e-3))
    if METHODS[type(settings)].needs == OWN_IMAGES:
        return backprop_step(policy, prompts, small_vae(kind), REWARD, SAMPLING, trainer)[0]
    made = rollout(policy, prompts, PlainVAE(), SAMPLING)
    rule = preferences if isinstance(settings, DiffusionDPO) else advantages
    return train_step(policy, made, rule(score_rollout(REWARD, made)), trainer)


CUT = r"does not reach \d+ of \d+ trained layers \(.*--use-sage-attention"
PAST = r"CrossAttention computes its attention by .* no gradient, .*--use-sage-attention"  # named where it happens


@pytest.mark.parametrize("settings", [FlowGRPO(), NFT(), DiffusionDPO(), DRaFT()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind, words", [("sd15", PAST), ("sd3", CUT), ("flux", CUT)])
def test_an_attention_without_a_backward_is_named(without_backward, kind, words, settings):
    with pytest.raises(RuntimeError, match=words):
        stepped(small_model(kind), kind, settings, Recipe(rank=2))


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_a_layer_that_never_reaches_the_picture_is_no_fault(kind):
    model = small_model("sd3")
    model.model.diffusion_model.never_used = torch.nn.Linear(8, 8)
    policy = create_policy(model, Recipe(rank=2, targets="all linear layers"))
    other = replace(policy, bank={key: torch.ones_like(value) for key, value in policy.bank.items()})  # who teaches, if any
    trainer = Trainer(every_method.settings_of(kind, other), every_method.RAW)
    new = every_method.stepped(kind, policy, trainer=trainer)
    assert new.metrics["updates"] and not new.metrics["skipped_updates"]
    assert not new.bank["never_used.lora_B"].any() and any(w.any() for k, w in new.bank.items() if k.endswith("lora_B"))


class Layers:
    """Layers without a gradient beside one that has it. moved: what the loss is away from ``base`` while a layer's weights are
    not zero; drift: what it moves by itself from the first call to the later ones."""

    def __init__(self, base: float, moved: dict[str, float], drift: float = 0.0):
        self.base, self.moved, self.drift, self.calls, self.tried = base, moved, drift, 0, []
        self.bank = {f"{name}.lora_B": torch.zeros(40, 50, requires_grad=True) for name in ("learns", *moved)}
        for name, weight in self.bank.items():
            weight.grad = torch.ones_like(weight) if name.startswith("learns") else torch.zeros_like(weight)
        self.bank["learns.lora_A"] = torch.ones(3, 4, requires_grad=True)

    def loss(self) -> torch.Tensor:
        self.calls += 1
        value = self.base + (self.drift if self.calls > 1 else 0.0)
        for name, moved in self.moved.items():
            if bool((weight := self.bank[f"{name}.lora_B"]).any()):
                value += moved
                self.tried.append(float(weight.std()))
        return torch.tensor(value, dtype=torch.float64)

    def cut(self) -> str:
        """The names in what is raised, "" where nothing is; the weights are as they were."""
        before = {name: weight.clone() for name, weight in self.bank.items()}
        try:
            check_reach(self.bank, self.loss)
            return ""
        except RuntimeError as error:
            return str(error).split("(")[1].split(")")[0]
        finally:
            assert all(torch.equal(weight, self.bank[name]) for name, weight in before.items())


@pytest.mark.parametrize(
    "base, drift, still, moves",
    [
        (0.0, 0.0, 1e-6, 1.5e-6),
        (-0.5, 0.0, 0.9e-6, -1.5e-6),
        (-1000.0, 0.0, 0.9e-3, -1.5e-3),
        (1.0, 0.001, 0.008, 0.012),
        (1.0, -0.001, -0.008, -0.012),
    ],
)
def test_a_layer_counts_where_it_moves_the_loss_by_more_than_rounding_and_chance(base, drift, still, moves):
    assert Layers(base, {"one": still}, drift).cut() == ""
    assert Layers(base, {"one": still, "two": moves}, drift).cut() == "two"
    assert Layers(base, {"one": float("nan")}, drift).cut() == "one"


def test_the_first_three_are_named_and_small_weights_are_tried_one_layer_at_a_time():
    layers = Layers(1.0, dict.fromkeys("abcd", 0.1))
    assert layers.cut() == "a, b, c ..." and Layers(1.0, dict.fromkeys("abc", 0.1)).cut() == "a, b, c"
    assert layers.tried == pytest.approx([0.05] * (4 + 4), rel=0.1) and layers.calls == 3 + 4, "all at once, then each alone"


def test_layers_that_never_reach_the_answer_cost_two_evaluations_however_many_they_are():
    layers = Layers(1.0, dict.fromkeys("abcdefgh", 0.0))
    assert layers.cut() == "" and layers.calls == 2 and len(layers.tried) == 8


def test_nothing_is_tried_where_every_layer_has_a_gradient_or_none_has():
    every, none = Layers(1.0, {}), Layers(1.0, {"one": 1.0, "two": 1.0})
    none.bank["learns.lora_B"].grad = None
    assert every.cut() == none.cut() == "" and every.calls == none.calls == 0
    none.bank["learns.lora_B"].grad = torch.ones(40, 50)
    none.bank["one.lora_B"].grad = None
    assert none.cut() == "one, two", "no gradient at all, or one that is zero"
