"""DDPO's train step against its formula."""

from __future__ import annotations

from posttrain.tests.unit.trainers.rollouts import feedback, made
from posttrain.tests.unit.trainers.steps_by_hand import PLAIN, agrees, by_hand, clipped
from posttrain.trainers.ddpo import DDPO
from posttrain.trainers.methods import Trainer, train_step
from small_models import trained_policy


def test_a_policy_that_has_moved_is_pulled_as_the_formula_says():
    """By the ratios alone, some of which are clipped: the reference is not asked."""
    policy, run = trained_policy("sd3", scale=0.1), made("sd3")[1]
    feed = feedback(run)
    new = train_step(policy, run, feed, Trainer(DDPO(clip_range=0.01, watch_kl=False), PLAIN))
    expected = by_hand(
        policy, run, feed.values, lambda now: clipped((now.log_prob - now.old_log_prob).exp(), now.advantage, 0.01)
    )
    agrees(new, expected)
    assert 0 < new.metrics["clip_fraction"] < 1
    assert "kl" not in new.metrics and new.metrics["update_evaluations"] == 8 * 3
