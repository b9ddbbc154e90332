"""A device without float64, as Apple's are: every trainer and every kind of reward."""
from __future__ import annotations

import pytest
import world
from simulated_card import host
from world import BACKPROP, TRAINERS, World, composites

pytestmark = pytest.mark.card("mac")


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda t: t.__name__)
def test_every_trainer_trains(trainer):
    there = World("sd3" if trainer.__name__ != "DDPO" else "sd15")
    assert there.policy.model.load_device.type == "mps"
    new = world.step(there, trainer)
    assert new.metrics["updates"] and new.metrics["grad_norm"] > 0 and not host.strays(new)


@pytest.mark.parametrize("name", composites())
def test_every_composite_of_rewards_is_followed(name):
    there, reward = World("sd3"), composites()[name]()
    trainer = next(t for t in BACKPROP if t.__name__ == "DRaFT")
    new = world.step(there, trainer, reward=reward)
    assert new.metrics["updates"] and new.metrics["grad_norm"] > 0 and not host.strays(new)


def test_a_step_reward_is_trained_and_asked():
    there = World("sd3")
    made = there.roll()
    reward = world.trained_step_reward(there, made)
    assert bool(world.score_latents(there.policy, made, reward).values.isfinite().all()) and not host.strays(reward)
