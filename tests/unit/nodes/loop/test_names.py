"""Names that the end of a workflow uses are checked before its training."""

from __future__ import annotations

import pytest
from posttrain.nodes.loop.wired import check_names


@pytest.mark.parametrize("name", ["../outside", "con", "a\0b", ""])
def test_a_lora_that_cannot_be_saved_stops_the_run_before_it_starts(name):
    with pytest.raises(ValueError, match="^file name"):
        check_names({"1": {"class_type": "X", "inputs": {}}, "2": {"class_type": "PTSaveLora", "inputs": {"file_name": name}}})


def test_names_that_can_be_saved_and_names_that_come_by_wire_pass():
    for name in ("posttrain/my_lora", "a {step}", ["3", 0]):
        check_names({"2": {"class_type": "PTSaveLora", "inputs": {"file_name": name}}})
    check_names({"2": {"class_type": "SaveImage", "inputs": {"file_name": "../x"}}})
