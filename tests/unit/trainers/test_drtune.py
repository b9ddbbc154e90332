"""DRTune: which steps learn, and by how much."""

from __future__ import annotations

from dataclasses import replace

import torch
from posttrain.tests.unit.trainers.through_reward import SMALL, stepped
from posttrain.trainers import drtune
from posttrain.trainers.drtune import DRTune
from posttrain.trainers.engine.reward_walk import Walk
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.network import Network
from small_models import trained_policy


def test_drtune_gives_every_trained_step_the_rewards_gradient_times_its_length(monkeypatch):
    """Closed form for flow: d reward / d prediction_i = -(sigma_i - sigma_i+1) d reward / d x0."""
    outputs, finals = [], []
    ask, judge = Network.denoise, Walk.rewards

    def spied(self, x, sigma, *rest, **options):
        assert not x.requires_grad, "the network's input is cut off"
        x0 = ask(self, x, sigma, *rest, **options)
        if x0.requires_grad:
            x0.retain_grad()
            outputs.append((float(sigma[0]), x0))
        return x0

    def watched(self, latents, **options):
        latents.retain_grad()
        finals.append(latents)
        return judge(self, latents, **options)

    monkeypatch.setattr(Network, "denoise", spied)
    monkeypatch.setattr(Walk, "rewards", watched)
    policy, sampling = trained_policy("sd3"), replace(SMALL, steps=6, guidance=1.0)
    for early_stop, count in ((0, 3), (0, 6), (3, 2)):
        outputs.clear(), finals.clear()
        stepped(policy, "sd3", DRTune(steps=count, early_stop=early_stop), sampling, iteration=1)
        with open_policy(policy) as net:
            sigmas = [float(s) for s in net.sigmas(sampling.scheduler, 6)]
        assert len(outputs) == count and len(finals) == 1
        for sigma, x0 in outputs:
            i = min(range(6), key=lambda k: abs(sigmas[k] - sigma))
            # the estimate is x - sigma v, so its gradient is the prediction's over -sigma
            got = -sigma * x0.grad
            length = sigmas[i] - sigmas[i + 1]
            ratios = (got / finals[0].grad)[finals[0].grad.abs() > 1e-3]
            stopped_here = early_stop and torch.allclose(ratios, torch.tensor(-sigma), rtol=1e-3)
            assert stopped_here or torch.allclose(ratios, torch.tensor(-length), rtol=1e-3)


def test_drtune_spreads_its_steps_evenly():
    for seed in range(50):
        steps = sorted(drtune.spaced(3, 9, generator(seed)))
        assert len(steps) == 3 and steps[1] - steps[0] == steps[2] - steps[1] == 3 and 0 <= steps[0] and steps[2] <= 9
    assert drtune.spaced(5, 2, generator(0)) == {0, 1, 2}
    firsts = {last: {min(drtune.spaced(3, last, generator(i))) for i in range(60)} for last in (7, 8, 9)}
    assert firsts == {7: {0, 1, 2, 3}, 8: {0, 1, 2}, 9: {0, 1, 2, 3}}, "as late as the last one allows"


def test_these_draws_stay_as_they_are():
    """A run that is taken up again goes on with the numbers that it would have drawn."""
    assert [min(drtune.spaced(2, 9, generator(i))) for i in range(8)] == [3, 0, 2, 0, 2, 0, 3, 4]


def test_any_number_of_the_last_steps_up_to_the_early_stop_is_left_out():
    policy, sampling = trained_policy("sd3"), replace(SMALL, guidance=1.0, prompts_per_iteration=1, width=32, height=32)
    steps = [stepped(policy, "sd3", DRTune(steps=1), sampling, iteration=i)[0] for i in range(6)]
    assert {new.metrics["update_evaluations"] for new in steps} == {1, 2, 3}
