"""Out of memory: told what to change in order, and nothing that is changed already."""

from __future__ import annotations

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import Heard, train
from posttrain.trainers.run.journal import read_entries
from posttrain.trainers.run.out_of_memory import STEPS, is_out_of_memory, what_to_change

SETTINGS = {"PTFlowGRPO.low_memory": False, "PTSampling.batch_size": 8}


def told_on() -> RuntimeError:
    error = RuntimeError("Rollout failed")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("Allocation failed"), MemoryError(), told_on(), RuntimeError(
    "Rollout (node 7) failed inside the loop: Allocation on device [torch.OutOfMemoryError]"), RuntimeError("MPS backend out of memory")])  # fmt: skip
def test_it_is_known_in_every_form(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [None, RuntimeError("no reward"), KeyboardInterrupt()])
def test_other_ends_are_none(error):
    assert not is_out_of_memory(error)


def test_the_order_is_that_of_what_it_costs_and_what_is_done_is_left_out():
    said = what_to_change(SETTINGS)
    places = [said.index(words) for words in ("1) switch on low_memory", "2) lower batch_size in Sampling Settings, now 8, to 4",
                                              "3) use the model in fp8", "4) train smaller")]  # fmt: skip
    assert places == sorted(places)
    small = what_to_change({"PTFlowGRPO.low_memory": True, "PTSampling.batch_size": 1})
    assert "low_memory" not in small and "batch_size" not in small and "1) use the model in fp8" in small


def test_a_run_that_ends_so_says_it_in_its_summary_and_history(tmp_path):
    heard = Heard()
    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path, 5, stop_at=2, heard=heard, settings=SETTINGS, error=torch.OutOfMemoryError)
    assert "1) switch on low_memory" in heard.of("end")[0]["text"] and heard.of("end")[0]["status"] == "error"
    (entry,) = [entry for entry in read_entries(tmp_path / "cats") if "1) switch on low_memory" in entry["text"]]
    assert entry["values"] == {"what": "memory is full", "steps": list(STEPS), "now": 8, "half": 4}, (
        "for a page in another language"
    )
