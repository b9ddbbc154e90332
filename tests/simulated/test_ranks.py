"""One step of every trainer shared by two and by three processes is that of one process."""

from __future__ import annotations

import pytest
import torch
import world
from processes import found_by

NAMES = [trainer.__name__ for trainer in world.TRAINERS]


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    """What each rank of one, two and three processes has found, by (processes, rank)."""
    return found_by("rank_worker.py", tmp_path_factory.mktemp("ranks"), (1, 2, 3))


@pytest.mark.card("none")
@pytest.mark.parametrize("name", NAMES)
def test_a_shared_step_is_that_of_one_process(steps, name):
    for shared in [key for key in steps if key[0] > 1]:
        alone, found = steps[1, 0], steps[shared]
        gradient, weights, numbers = (f"{name}/{what}" for what in ("gradient", "weights", "numbers"))
        expected = alone[gradient].double()
        # decoding other images at once moves a score by its last digits, and small differences of scores are what is learned
        assert float((found[gradient].double() - expected).norm() / expected.norm()) < 3e-5
        assert float((found[weights] - alone[weights]).abs().max()) < 1e-6
        assert torch.allclose(found[numbers], alone[numbers], rtol=1e-5, atol=1e-7)
        assert torch.equal(found[weights], steps[shared[0], 0][weights])  # the ranks do not drift apart


@pytest.mark.card("none")
def test_every_trainer_was_shared(steps):
    assert {key.split("/")[0] for key in steps[1, 0]} == set(NAMES) and len(NAMES) > 15
