"""One step of every trainer shared by two and by three processes is that of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import world
from posttrain.tools.host import free_port
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
NAMES = [trainer.__name__ for trainer in world.TRAINERS]


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    """What each rank of one, two and three processes has found, by (processes, rank)."""
    folder, found = tmp_path_factory.mktemp("ranks"), {}
    for count in (1, 2, 3):
        shared = os.environ | {
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
        }
        logs = [(folder / f"{count}.{rank}.log").open("w+") for rank in range(count)]
        workers = [
            subprocess.Popen(
                [sys.executable, "-P", str(HERE / "rank_worker.py"), str(folder / str(count))],
                env=shared | {"RANK": str(rank)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            ends = [worker.wait(240) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        for rank, end in enumerate(ends):
            logs[rank].seek(0)
            assert end == 0, logs[rank].read()[-3000:]
            found[count, rank] = load_file(folder / f"{count}.{rank}")
    return found


@pytest.mark.card("none")
@pytest.mark.parametrize("name", NAMES)
def test_a_shared_step_is_that_of_one_process(steps, name):
    for shared in [key for key in steps if key[0] > 1]:
        alone, found = steps[1, 0], steps[shared]
        gradient, weights, numbers = (f"{name}/{what}" for what in ("gradient", "weights", "numbers"))
        expected = alone[gradient].double()
        # decoding other images at once moves a score by its last digits, and small differences of scores are what is learned
        assert float((found[gradient].double() - expected).norm() / expected.norm()) < 1e-5
        assert float((found[weights] - alone[weights]).abs().max()) < 1e-6
        assert torch.allclose(found[numbers], alone[numbers], rtol=1e-5, atol=1e-7)
        assert torch.equal(found[weights], steps[shared[0], 0][weights])  # the ranks do not drift apart


@pytest.mark.card("none")
def test_every_trainer_was_shared(steps):
    assert {key.split("/")[0] for key in steps[1, 0]} == set(NAMES) and len(NAMES) > 15
