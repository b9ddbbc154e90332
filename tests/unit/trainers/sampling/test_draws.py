"""Which prompts, seeds and noise an iteration draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.rollouts import SMALL
from posttrain.trainers.noise.streams import Stream, generator
from posttrain.trainers.sampling.draws import SampleNoise, chosen_prompts, chosen_samples


def test_all_prompts_are_used_before_one_comes_again():
    settings = replace(SMALL, prompts_per_iteration=4)
    seen = torch.cat([chosen_prompts(12, settings, i) for i in range(3)])
    assert sorted(seen.tolist()) == list(range(12))


@pytest.mark.parametrize("count, wanted", [(12, 4), (5, 3), (3, 8), (7, 7), (1, 1)])
def test_prompts_are_dealt_from_one_shuffled_deck_after_another(count, wanted):
    """These draws stay as they are: a run that is taken up again goes on with the prompts that it would have drawn."""
    settings, each = replace(SMALL, prompts_per_iteration=wanted, seed=9), min(count, wanted)
    dealt = [chosen_prompts(count, settings, i) for i in range(10)]
    decks = torch.cat([torch.randperm(count, generator=generator(9, deal, Stream.DECK)) for deal in range(11)])
    assert [len(prompts) for prompts in dealt] == [each] * 10
    assert torch.cat(dealt).tolist() == decks[: 10 * each].tolist()


@pytest.mark.parametrize("same_start", [False, True])
def test_seeds_and_shared_starts_stay_as_they_are(same_start):
    settings = replace(SMALL, prompts_per_iteration=2, images_per_prompt=3, seed=9, same_start=same_start)
    samples = chosen_samples(5, settings, 6)
    assert samples.index.tolist() == [int(i) for i in chosen_prompts(5, settings, 6) for _ in range(3)] and len(samples) == 6
    assert torch.equal(samples.seeds, torch.randint(2**62, (6,), generator=generator(9, 6, Stream.SEEDS)))
    if not same_start:
        assert samples.starts is None
        return
    shared = torch.randint(2**62, (2,), generator=generator(9, 6, Stream.STARTS)).tolist()
    assert samples.starts.tolist() == [start for start in shared for _ in range(3)]


def test_each_sample_draws_its_noise_from_its_own_seed():
    random = {seed: generator(seed) for seed in (3, 4, 8)}
    first, second = ([torch.randn(2, 5, generator=random[seed]) for seed in (3, 4, 8)] for _ in range(2))
    alone, shared = SampleNoise(torch.tensor([3, 4])), SampleNoise(torch.tensor([3, 4]), torch.tensor([8, 8]))
    assert torch.equal(alone.start((2, 5)), torch.stack(first[:2])) and torch.equal(alone.next((2, 5)), torch.stack(second[:2]))
    assert torch.equal(shared.start((2, 5)), torch.stack([first[2]] * 2)), "a start of its own"
    assert torch.equal(shared.next((2, 5)), torch.stack(first[:2])), "which takes nothing from the sample's seed"
    settings = replace(SMALL, same_start=True)
    samples = chosen_samples(2, settings, 0)
    cut, rows = samples.noise(slice(2, 5)), samples.noise(torch.tensor([2, 3, 4]))
    assert torch.equal(cut.start((2,)), SampleNoise(samples.seeds[2:5], samples.starts[2:5]).start((2,)))
    assert torch.equal(cut.next((2,)), rows.next((2,)))
