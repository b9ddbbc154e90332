"""A model whose weights are shared out among two processes (FSDP2, gloo) trains as in one, each holding half of it."""

from __future__ import annotations

import pytest
import torch
from processes import found_by

# a trainer of each kind; Flux writes over its activations, SD1.5 is a UNet
STEPS = ("sd3:NFT", "sd3:FlowGRPO", "sd3:DRaFT", "sd3:SPO", "sd3:DiffusionDPO", "flux:NFT", "sd15:DDPO", "lumina:NFT")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    """By (processes, rank)."""
    return found_by("share_worker.py", tmp_path_factory.mktemp("shared"), (1, 2), *STEPS)


@pytest.mark.card("none")
@pytest.mark.parametrize("step", STEPS)
def test_it_is_the_step_of_one_process(found, step):
    alone, first, second = (found[key] for key in ((1, 0), (2, 0), (2, 1)))
    assert float((first[f"{step}/weights"] - alone[f"{step}/weights"]).abs().max()) < 1e-6
    assert torch.equal(first[f"{step}/weights"], second[f"{step}/weights"])  # the ranks do not drift apart
    assert torch.equal(first[f"{step}/evaluations"], alone[f"{step}/evaluations"])  # nothing is counted twice


@pytest.mark.card("none")
@pytest.mark.parametrize("step", STEPS)
def test_each_holds_half_and_the_users_model_is_as_it_was(found, step):
    for (count, _), each in found.items():
        assert len(each[f"{step}/held"]) and torch.allclose(each[f"{step}/held"], torch.tensor(1 / count), atol=0.01)
        assert each[f"{step}/untouched"].all()
