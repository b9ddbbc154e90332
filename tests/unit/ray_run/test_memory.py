"""What processes ask for, and whether machines have it: reckoned from what Ray tells of them."""

from __future__ import annotations

import pytest
from posttrain.ray_run.memory import GB, short_of, words_of


def machine(gigabytes: float, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": 8.0, "memory": gigabytes * GB}}


@pytest.mark.parametrize(
    "machines, count, fits",
    [
        ([machine(16)], 2, True),
        ([machine(16)], 3, False),
        ([machine(15), machine(15)], 2, True),
        ([machine(15), machine(15)], 3, False),  # 30 GB in all, and no machine has room for two
        ([machine(4), machine(4)], 1, False),
        ([machine(8), machine(64, alive=False)], 2, False),
        ([{"Alive": True, "Resources": {}}], 1, False),
        ([], 1, False),
    ],
)
def test_each_process_needs_its_memory_on_one_machine(machines, count, fits):
    assert bool(short_of(machines, count, 8 * GB, 7 * GB)) != fits


def test_what_is_short_is_said_with_its_numbers():
    words = short_of([machine(4), machine(6)], 2, 8 * GB, 7 * GB)
    assert words.startswith(
        "--memory: 2 processes ask for 8.0 GB each (the model files that the workflow names have 7.0 GB), and"
    )
    assert "4.0 GB, 6.0 GB to give" in words and "model files" not in short_of([machine(4)], 1, 8 * GB, None)


def test_what_is_asked_for_is_one_line():
    asked = {"CPU": 1.0, "GPU": 1.0, "memory": 13.2 * GB}
    assert words_of(asked, 12.2 * GB) == (
        "Each process asks Ray for 1 CPU, 1 GPU and 13.2 GB of memory; 12.2 GB are in the model files that the workflow names "
        "(--memory)"
    )
    assert words_of(asked, None).endswith("as --memory says")
