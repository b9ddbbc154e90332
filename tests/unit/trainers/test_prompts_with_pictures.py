"""Prompts that carry pictures: every trainer shows them to the network and to the reward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.prompt import Source
from posttrain.rewards.base.reward import Prompt, RewardInfo
from posttrain.tests.unit.trainers.every_method import RAW, SMALL, settings_of, stepped
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer
from posttrain.trainers.policy.encodings import Encodings
from posttrain.trainers.prompts import PromptSet
from small_models import conditioning, trained_policy

WORDS = "make it light"


def edits(first: int, second: int) -> PromptSet:
    """Two prompts of the same words about different pictures, drawn from these seeds, as Encode Edits gives them."""
    sources = {f"picture {seed}": seed for seed in (first, second)}
    prompts = tuple(Prompt(WORDS, source=Source(name, name, lambda seed=seed: picture(seed))) for name, seed in sources.items())

    def encode(words: int):
        def encoded(name: str) -> list:
            ((text, extra),) = conditioning("flux", words)
            latent = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(sources[name]))
            return [[text, {**extra, "reference_latents": [latent]}]]

        return Encodings([prompt.source.key for prompt in prompts], encoded)

    return PromptSet(prompts, encode(1), negatives=encode(2))


def picture(seed: int) -> torch.Tensor:
    return torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(seed))


class SeesBoth:
    """Remembers which pictures it was shown beside the images."""

    info = RewardInfo("sees both", None, None, True, True, "")

    def __init__(self):
        self.seen: set[str] = set()

    def __call__(self, images, prompts):
        self.seen |= {prompt.source.name for prompt in prompts}
        before = torch.stack([prompt.source.read() for prompt in prompts]).to(images.device)
        return (images - before.mean((1, 2))[:, None, None]).square().flatten(1).mean(1)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_every_trainer_trains_on_the_pictures_of_its_prompts(kind):
    banks, reward = [], SeesBoth()
    for pictures in ((1, 2), (1, 2), (1, 3)):
        policy = trained_policy("flux")
        trainer = Trainer(settings_of(kind, policy), replace(RAW, learning_rate=1e-3))
        new = stepped(kind, policy, SMALL, trainer, edits(*pictures), reward)
        banks.append(new.bank)
        assert any(not torch.equal(new.bank[key], policy.bank[key]) for key in policy.bank)
    assert all(torch.equal(banks[0][key], banks[1][key]) for key in banks[0])
    assert any(not torch.equal(banks[0][key], banks[2][key]) for key in banks[0]), "another picture taught the same"
    judges = METHODS[kind].needs == OWN_IMAGES or kind.__name__ == "SPO"
    assert reward.seen == ({"picture 1", "picture 2", "picture 3"} if judges else set())


@pytest.mark.parametrize("kind", [kind for kind in METHODS if hasattr(kind(), "empty_prompts")], ids=lambda kind: kind.__name__)
def test_a_prompt_that_is_left_out_keeps_its_picture(kind):
    """With all of the words left out it learns what it learns from the negative prompt about the same pictures."""

    def bank(prompts: PromptSet, share: float):
        policy = trained_policy("flux")
        settings = replace(settings_of(kind, policy), empty_prompts=share)
        return stepped(kind, policy, replace(SMALL, guidance=1.0, steps=2), Trainer(settings, Optimizer()), prompts).bank

    known = edits(1, 2)
    other = bank(known, 1 - 1e-9)
    assert any(not torch.equal(value, other[key]) for key, value in bank(known, 0.0).items())
    swapped = replace(known, negatives=edits(1, 3).negatives)
    assert any(not torch.equal(value, other[key]) for key, value in bank(swapped, 1 - 1e-9).items())
    again = bank(replace(known, negatives=edits(1, 2).negatives), 1 - 1e-9)
    assert all(torch.equal(value, other[key]) for key, value in again.items())
