"""Finished latents noised anew: what shares noise and level, and the safeguard of pairs."""

from __future__ import annotations

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import KINDS, made, trap
from posttrain.tests.unit.trainers.scored_rollouts import SMALL
from posttrain.trainers.engine.renoise import Renoised, noised, pair_errors, paired
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.policy import open_policy
from posttrain.trainers.sampling.rollout import rollout
from small_models import PlainVAE, prompts_for, trained_policy


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_shares_noise_and_level(kind):
    policy, run, scores = made(kind)
    pairs = preferences(scores, "all pairs")
    (micros,) = paired(run, pairs, 3, 1)
    assert sum(micro.size for micro in micros) == 2 * 3 * len(pairs.winner)
    for micro in micros:
        (w, l), (sw, sl), (nw, nl) = (t.chunk(2) for t in (micro.rows, micro.sigma, micro.noise))
        assert torch.equal(sw, sl) and torch.equal(nw, nl) and torch.equal(run.index[w], run.index[l])
        assert bool((scores.values[w] > scores.values[l]).all())
    noises = torch.cat([micro.noise.chunk(2)[0] for micro in micros]).flatten(1)
    assert len(noises.unique(dim=0)) == len(noises), "every pair and level has noise of its own"


@pytest.mark.parametrize("kind", KINDS)
def test_the_safeguard_keeps_the_winners_error_from_rising(kind):
    """To first order, in the space of predictions, for every pair; without it most of them rise here."""
    policy, run, pairs = trap(kind)
    rises = {None: [], 0.9: []}
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for micro in paired(run, pairs, 2, 1)[0]:
            question = Renoised(net, run, micro)
            x0 = question.ask(bank)
            for safeguard, found in rises.items():
                found.append(rise_of_winners(question, x0, safeguard))
    assert bool((torch.cat(rises[None]) > 0).any()), "it is needed"
    assert bool((torch.cat(rises[0.9]) < 0).all()), "and it works"


def rise_of_winners(question: Renoised, x0: torch.Tensor, safeguard) -> torch.Tensor:
    """[P]: rate of each winner's error when a shared network moves its answer by the sum of both gradients."""
    with torch.enable_grad():
        x0 = x0.detach().requires_grad_(True)
        winner, loser = pair_errors(question, x0, safeguard)
        (up,) = torch.autograd.grad(winner.sum() - loser.sum(), x0)
    pull, push = up.chunk(2)
    return -(pull * (pull + push)).flatten(1).sum(1)


def test_groups_share_noise_and_level():
    policy = trained_policy("sd3")
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0)
    (micros,) = noised(run, torch.ones(8, dtype=torch.bool), 2, 1, 4, by_group=True)
    for micro in micros:
        assert len(micro.rows) == 4 and len(run.index[micro.rows].unique()) == 1
        assert torch.equal(micro.noise[0], micro.noise[3]) and len(micro.sigma.unique()) == 1
