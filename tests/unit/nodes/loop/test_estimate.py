"""What the node says before a training, for every trainer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.nodes.loop.estimate import PTEstimate, estimate
from posttrain.tests.unit.trainers import conftest  # noqa: F401 (lays the small models beside the tests)
from posttrain.tests.unit.trainers.every_method import RAW, SMALL, Wave, settings_of
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.cost import Cost
from posttrain.trainers.engine.dry_run import GB, Forecast, Trial, reckoned, trial_sizes
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, cost_of
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy.meter import Taken
from small_models import prompts_for, small_vae, trained_policy


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_every_trainer_is_tried_and_the_policy_stays(kind):
    policy = trained_policy("sd3")
    trainer = Trainer(settings_of(kind, policy), RAW)
    before = {key: value.clone() for key, value in policy.bank.items()}
    reward = Wave() if METHODS[kind].needs == OWN_IMAGES else None
    (text,) = PTEstimate().run(policy, prompts_for("sd3"), small_vae("sd3"), SMALL, trainer, reward)["result"]
    assert text.startswith(cost_of(policy, trainer, SMALL, 2).words()) and "It takes about" in text and "GB" not in text
    assert policy.step == 0 and all(torch.equal(policy.bank[key], value) for key, value in before.items())


def test_a_trainer_through_the_reward_wants_one():
    with pytest.raises(ValueError, match="^reward: this trainer follows the reward's gradient"):
        estimate(trained_policy("sd3"), prompts_for("sd3"), small_vae("sd3"), SMALL, Trainer(DRaFT(), RAW))


def test_a_batch_is_tried_itself_where_it_is_small_and_else_reckoned_from_two():
    assert trial_sizes(1) == (1,) and trial_sizes(4) == (4,) and trial_sizes(5) == (2, 4)

    def trial(images: int, size: int | None) -> Trial:
        return Trial(images, Taken(1.0, size), 0.0, 0.0, 0.0)

    assert reckoned([trial(3, 700)], 3) == 700
    assert reckoned([trial(2, 1000), trial(4, 1400)], 10) == 2600
    assert reckoned([trial(2, None), trial(4, None)], 10) is None


def test_it_says_what_fits_and_what_does_not():
    cost = Cost(64, 640, 256, 0)
    fits = Forecast(cost, 12 * GB, 200.0).words(24 * GB)
    assert "64 images and 896 network evaluations: 640 to sample, 256 with gradient." in fits
    assert "about 3.3 minutes" in fits and "about 12.0 GB, and 24.0 GB are free" in fits and "too much" not in fits
    assert "switch on low memory" in Forecast(cost, 30 * GB, None, "Memory ran out.").words(24 * GB)


def test_whole_groups_go_through_the_network_together():
    from posttrain.nodes.loop.estimate import images_at_once
    from posttrain.trainers.crd import CRD
    from posttrain.trainers.dgpo import DGPO

    assert images_at_once(Trainer(DGPO(), RAW), SMALL) == 4
    three = replace(SMALL, images_per_prompt=3, batch_size=2)
    assert images_at_once(Trainer(DGPO(), RAW), three) == images_at_once(Trainer(CRD(), RAW), three) == 3
    assert images_at_once(Trainer(NFT(), RAW), SMALL) == 4
