from __future__ import annotations

import pytest
import torch
from posttrain.trainers.noise.paths import EPS, FLOW, V, noise_share, sigma_at
from posttrain.trainers.noise.streams import generator


@pytest.mark.parametrize(
    "key, seed",
    [
        ((0, 3), 4703596698754345202),
        ((7, 3), 7818327814812183561),
        ((7, 4), 2067272622890136610),
        ((-1, 2, 9), 8455107815903121249),
        ((9223372036854775819, 5, 21), 4045330933519955871),
    ],
)
def test_seeds_stay_as_they_are(key, seed):
    """A run that is taken up again goes on with the numbers that it would have drawn."""
    assert generator(*key).initial_seed() == seed


def test_the_share_of_noise_and_the_level_that_has_it():
    sigma = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(noise_share(FLOW, sigma), sigma)
    for path in (EPS, V):
        torch.testing.assert_close(noise_share(path, 4 * sigma), torch.tensor([1 / 2, 2 / 3, 4 / 5], dtype=torch.float64))
    for path in (FLOW, EPS, V):
        torch.testing.assert_close(sigma_at(path, noise_share(path, sigma)), sigma)
