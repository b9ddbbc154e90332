"""history.jsonl: what was said in a run is there after a restart, whatever happened to the file."""

from __future__ import annotations

import pytest
from posttrain.tests.unit.trainers.run.run_helpers import train
from posttrain.trainers.run.journal import FILE, MOST, read_entries, write_entry


def test_what_was_said_is_read_back_past_half_a_line(tmp_path):
    write_entry(tmp_path, 3, "first", "warning", alarm="fall", values={"now": 1.0})
    with open(tmp_path / FILE, "ab") as file:
        file.write(b'{"iteration": 4, "te')  # killed in mid-write
    write_entry(tmp_path, 5, "second")
    first, second = read_entries(tmp_path)
    assert (first["iteration"], first["alarm"], first["values"]) == (3, "fall", {"now": 1.0})
    assert (second["iteration"], second["text"], second["level"]) == (5, "second", "info")


def test_the_newest_are_read(tmp_path):
    assert read_entries(tmp_path) == []
    for number in range(MOST + 5):
        write_entry(tmp_path, number, "x" * 5000)
    found = read_entries(tmp_path)
    assert [entry["iteration"] for entry in found] == list(range(5, MOST + 5)) and len(found[0]["text"]) == 4000


def test_an_error_is_in_the_history(tmp_path):
    with pytest.raises(RuntimeError):
        train(tmp_path, 5, stop_at=2)
    newest = read_entries(tmp_path / "cats")[-1]
    assert (newest["level"], newest["text"], newest["iteration"]) == ("error", "stopped by the test", 2)
