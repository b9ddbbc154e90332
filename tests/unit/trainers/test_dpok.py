"""DPOK's train step against its formula."""

from __future__ import annotations

from posttrain.tests.unit.trainers.rollouts import feedback, made
from posttrain.tests.unit.trainers.steps_by_hand import PLAIN, agrees, by_hand, clipped
from posttrain.trainers.dpok import DPOK
from posttrain.trainers.methods import Trainer, train_step
from small_models import trained_policy


def test_a_policy_that_has_moved_is_pulled_as_the_formula_says():
    """Reward and KL have weights of their own; some rows are clipped."""
    policy, run = trained_policy("sd3", scale=0.1), made("sd3")[1]
    feed = feedback(run)
    new = train_step(policy, run, feed, Trainer(DPOK(clip_range=0.01, reward_weight=3.0, kl_weight=0.7), PLAIN))

    def row_loss(now):
        return 3.0 * clipped((now.log_prob - now.old_log_prob).exp(), now.advantage, 0.01) + 0.7 * now.kl

    agrees(new, by_hand(policy, run, feed.values, row_loss))
    assert 0 < new.metrics["clip_fraction"] < 1


def test_without_a_pull_to_the_reference_the_distance_is_still_watched():
    policy, run = made("sd3")
    new = train_step(policy, run, feedback(run), Trainer(DPOK(kl_weight=0.0), PLAIN))
    assert new.metrics["kl"] > 0 and new.metrics["update_evaluations"] == 8 * 3 + 4
