"""Finished latents noised anew: what shares noise and level, in which order, and the safeguard of pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import KINDS, made, trap
from posttrain.tests.unit.trainers.scored_rollouts import SMALL
from posttrain.trainers.engine.renoise import (
    Noised,
    Renoised,
    level_of_part,
    noised,
    pair_errors,
    paired,
    sampled_levels,
    with_anchor,
    with_empty_prompt,
    without_pure_noise,
)
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.noise.streams import Stream, generator
from posttrain.trainers.policy import open_policy
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling.rollout import Rollout, rollout
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


def finished(index, **changed) -> Rollout:
    """Images of these prompts, with seeds from 101 on, after the run's third iteration of 10 steps."""
    count = len(index)
    made = Rollout(
        latents=torch.zeros(count, 2, 3, 4),
        images=torch.zeros(count, 1, 1, 3),
        prompts=PromptSet(()),
        index=torch.tensor(index),
        seeds=torch.arange(101, 101 + count),
        guidance=1.0,
        sigmas=torch.linspace(1, 0, 11),
        trajectory=None,
        batch_size=4,
        iteration=3,
    )
    return replace(made, **changed)


def draws(*key: int, level: int, levels: int, grid: torch.Tensor) -> tuple[float, torch.Tensor]:
    """(sigma, noise) that a key stands for."""
    random = generator(*key)
    place = (level + float(torch.rand((), generator=random))) * len(grid) / levels
    return float(grid[int(place)]), torch.randn(2, 3, 4, generator=random)


def check(micro: Noised, rows: list[int], drawn: list[tuple[float, torch.Tensor]], first: bool) -> None:
    assert micro.rows.tolist() == rows and micro.first is first
    assert micro.sigma.tolist() == [sigma for sigma, _ in drawn]
    assert torch.equal(micro.noise, torch.stack([noise for _, noise in drawn]))


def test_order_level_and_noise_of_an_image_stay_as_they_are():
    """A run that is taken up again goes on with the numbers that it would have drawn."""
    run = finished([0, 0, 1, 1, 2])
    steps = noised(run, torch.tensor([True, True, False, True, True]), 2, 2, 1)
    order = torch.tensor([0, 1, 3, 4])[torch.randperm(4, generator=generator(3, 101, Stream.RENOISE_ORDER))].tolist()
    expected = [[(row, level) for row in order[number::2] for level in range(2)] for number in range(2)]
    for number, (micros, wanted) in enumerate(zip(steps, expected, strict=True)):
        for micro, (row, level) in zip(micros, wanted, strict=True):
            key = (3, 101 + row, level, Stream.RENOISE_DRAW)
            check(micro, [row], [draws(*key, level=level, levels=2, grid=run.sigmas[:9])], number == 0)
            assert micro.no_prompt is None


def test_whole_prompts_fill_a_micro_batch_in_the_order_drawn():
    index, seen = [0, 0, 1, 1, 1, 2, 2], set()
    rows = {prompt: [row for row, of in enumerate(index) if of == prompt] for prompt in range(3)}
    packed = {
        (0, 1, 2): [[0], [1], [2]],
        (0, 2, 1): [[0, 2], [1]],
        (1, 0, 2): [[1], [0, 2]],
        (1, 2, 0): [[1], [2, 0]],
        (2, 0, 1): [[2, 0], [1]],
        (2, 1, 0): [[2], [1], [0]],
    }
    for iteration in range(30):
        run = finished(index, iteration=iteration)
        order = tuple(torch.randperm(3, generator=generator(iteration, 101, Stream.RENOISE_ORDER)).tolist())
        (micros,) = noised(run, torch.ones(7, dtype=torch.bool), 2, 1, 4, by_group=True)
        wanted = [(prompts, level) for prompts in packed[order] for level in range(2)]
        for micro, (prompts, level) in zip(micros, wanted, strict=True):
            there = dict(level=level, levels=2, grid=run.sigmas[:9])
            sigma = draws(iteration, 101, level, Stream.SHARED_LEVEL, **there)[0]
            noise = {prompt: draws(iteration, prompt, level, Stream.RENOISE_DRAW, **there)[1] for prompt in prompts}
            chosen = [(row, prompt) for prompt in prompts for row in rows[prompt]]
            check(micro, [row for row, _ in chosen], [(sigma, noise[prompt]) for _, prompt in chosen], True)
        seen.add(order)
    assert len(seen) == 6, "every order has been seen"
    (micros,) = noised(run, torch.ones(7, dtype=torch.bool), 1, 1, 1, by_group=True)
    assert sorted(micro.size for micro in micros) == [2, 2, 3], "a prompt with more images than a batch stays whole"


@pytest.mark.parametrize("batch_size, at_once", [(1, 1), (3, 1), (4, 2)])
def test_order_level_and_noise_of_a_pair_stay_as_they_are(batch_size, at_once):
    run = finished([0] * 4 + [1] * 4, batch_size=batch_size)
    winner, loser = torch.tensor([0, 1, 4, 7, 6, 6]), torch.tensor([3, 2, 5, 4, 5, 7])
    pairs = Preferences(winner, loser, torch.ones(6), run.index[winner], {})
    order = torch.randperm(6, generator=generator(3, 101, Stream.PAIR_ORDER)).split(at_once)
    for number, micros in enumerate(paired(run, pairs, 2, 2)):
        wanted = [(chosen.tolist(), level) for chosen in order[number::2] for level in range(2)]
        for micro, (chosen, level) in zip(micros, wanted, strict=True):
            won, lost = winner[chosen].tolist(), loser[chosen].tolist()
            drawn = [
                draws(3, 101 + better, 101 + worse, level, Stream.PAIR_DRAW, level=level, levels=2, grid=run.sigmas[:9])
                for better, worse in zip(won, lost)
            ]
            check(micro, won + lost, drawn * 2, number == 0)
    assert number == 1


def without_prompt(*key: int) -> float:
    return float(torch.rand((), generator=generator(3, *key, Stream.EMPTY_PROMPT)))


def test_which_images_lose_their_prompt_stays_as_it_is():
    run = finished([0] * 16, batch_size=8)
    share = without_prompt(101, 0)  # a draw that is not below itself
    for micro in noised(run, torch.ones(16, dtype=torch.bool), 2, 1, 8, empty_prompts=share)[0]:
        level = 0 if float(micro.sigma.min()) > 0.5 else 1
        assert micro.no_prompt.tolist() == [without_prompt(101 + row, level) < share for row in micro.rows.tolist()]
    pairs = Preferences(torch.arange(8), torch.arange(8, 16), torch.ones(8), torch.zeros(8), {})
    for micro in paired(run, pairs, 1, 1, 0.5)[0]:
        chosen = [without_prompt(101 + row, 109 + row, 0) < 0.5 for row in micro.rows.chunk(2)[0].tolist()]
        assert micro.no_prompt.tolist() == chosen * 2 and micro.size == 8
    assert noised(run, torch.ones(16, dtype=torch.bool), 1, 1, 8)[0][0].no_prompt is None


def test_an_image_without_prompt_is_asked_with_the_negative_one():
    policy, prompts = trained_policy("sd3"), prompts_for("sd3")
    known = with_empty_prompt(finished([0, 1, 1], prompts=prompts, latents=torch.randn(3, 16, 8, 8)), 0.5)
    assert known.prompts.positive == (*prompts.positive, prompts.negative) and len(known.prompts) == 3
    assert known.prompts.prompts[2].text == ""
    noise = torch.randn(3, 16, 8, 8)
    micro = Noised(torch.arange(3), torch.tensor([0.3, 0.6, 0.8]), noise, True, torch.tensor([False, True, False]))
    negative = replace(known, prompts=replace(prompts, positive=(prompts.negative,) * 2))
    with open_policy(policy) as net:
        found, plain, empty = (
            Renoised(net, run, mic).ask_quietly(None)
            for run, mic in (
                (known, micro),
                (known, replace(micro, no_prompt=None)),
                (negative, replace(micro, no_prompt=None)),
            )
        )
    torch.testing.assert_close(found, torch.stack([plain[0], empty[1], plain[2]]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain[1], empty[1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_state_error_and_distance_are_those_of_the_networks_own_prediction(kind):
    policy, run, _ = made(kind)
    random = torch.Generator().manual_seed(3)
    data, noise, answer, other = (torch.randn(3, *run.latents.shape[1:], generator=random) for _ in range(4))
    run = replace(run, latents=torch.cat([data.flip(0), run.latents]))
    sigma = torch.tensor([0.9, 0.5, 0.2])
    s = sigma.reshape(3, 1, 1, 1)
    x = (1 - s) * data + s * noise if kind == "sd3" else data + s * noise
    predicted = {
        "sd15": lambda x0: (x - x0) / s,
        "sd2_v": lambda x0: ((x - x0) / s - s * x0) / (1 + s * s).sqrt(),
        "sd3": lambda x0: (x - x0) / s,  # noise - x0, with noise = (x - (1 - s) x0) / s
    }[kind]
    with open_policy(policy) as net:
        question = Renoised(net, run, Noised(torch.tensor([2, 1, 0]), sigma, noise, True))
        torch.testing.assert_close(question.x, x)
        torch.testing.assert_close(question.target, predicted(data), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(question.prediction(answer), predicted(answer), rtol=1e-4, atol=1e-4)
        error = (predicted(answer) - predicted(data)).square().mean((1, 2, 3))
        torch.testing.assert_close(question.error(answer), error, rtol=1e-4, atol=1e-5)
        apart = (predicted(answer) - predicted(other)).square().mean((1, 2, 3))
        torch.testing.assert_close(question.distance(answer, other), apart, rtol=1e-4, atol=1e-5)
        assert question.of(torch.arange(11.0).double()).tolist() == [2, 1, 0]


def test_the_safeguard_scales_a_losers_gradient_and_no_value():
    """lambda = (1 - mu) |e_w|^2 / (e_w . e_l), at most 1, where both errors point the same way."""
    policy, run, pairs = trap("sd3")
    with open_policy(policy) as net, torch.enable_grad():
        (micro,) = paired(replace(run, batch_size=8), pairs, 1, 1)[0]
        question = Renoised(net, run, micro)
        x0 = question.ask_quietly(net.to_device(policy.bank)).requires_grad_()
        winner, loser = question.error(x0).chunk(2)
        (plain,) = torch.autograd.grad(loser.sum(), x0, retain_graph=True)
        e_w, e_l = (question.prediction(x0) - question.target).detach().flatten(1).chunk(2)
        scale = (0.1 * (e_w * e_w).sum(1) / (e_w * e_l).sum(1)).clamp(0, 1)
        assert bool(((e_w * e_l).sum(1) > 0).all()) and bool((scale < 1).all())
        kept, pushed = pair_errors(question, x0, 0.9)
        (scaled,) = torch.autograd.grad(pushed.sum(), x0)
    assert torch.equal(kept, winner) and torch.equal(pushed, loser)
    lost = plain.chunk(2)[1]
    torch.testing.assert_close(scaled.chunk(2)[1], scale.reshape(-1, 1, 1, 1) * lost, rtol=1e-4, atol=1e-7)


def test_the_last_levels_are_left_out_where_there_are_enough():
    cut = {steps: sampled_levels(finished([0], sigmas=torch.arange(steps, -1.0, -1))).tolist() for steps in (1, 2, 3, 6)}
    assert cut == {1: [1], 2: [2, 1], 3: [3, 2], 6: [6, 5, 4, 3, 2]}
    assert [without_pure_noise(torch.arange(n, 0.0, -1)).tolist() for n in (1, 2, 3)] == [[1], [1], [2, 1]]


def test_each_part_of_the_grid_gives_its_own_levels():
    grid = torch.arange(6.0)
    for level in range(3):
        seen = {float(level_of_part(grid, level, 3, torch.Generator().manual_seed(seed))) for seed in range(40)}
        assert seen == {2.0 * level, 2.0 * level + 1}


def test_an_anchor_follows_and_none_is_kept_that_would_equal_the_policy():
    policy = trained_policy("sd3")
    policy = replace(policy, anchors={"old": policy.bank, "other": policy.bank})
    start = {key: value + 1 for key, value in policy.bank.items()}
    assert with_anchor(policy, "old", start, 0.0).anchors.keys() == {"other"}
    moved = with_anchor(policy, "old", start, 0.25).anchors
    assert moved.keys() == {"old", "other"} and moved["other"] is policy.bank
    for key, value in policy.bank.items():
        torch.testing.assert_close(moved["old"][key], value + 0.25)
