"""What ranks send to each other where the pack lies in folders of different names."""

from __future__ import annotations

import pickle

import torch
from posttrain.rewards.base import wire
from posttrain.rewards.base.reward import Prompt


def from_another_folder(value, root: str) -> wire.Sent:
    """As a rank sends it whose ComfyUI calls the pack ``root``."""
    own, content = wire.packed(value)
    assert own == "posttrain" and b"posttrain.rewards" in content
    return root, pickle.dumps(value, protocol=0).replace(b"cposttrain.", f"c{root}.".encode())


def test_a_value_of_our_own_classes_is_read_whatever_the_folder_is_called():
    sent = from_another_folder({"prompt": Prompt("a cat"), "numbers": [1, 2.5]}, "/mnt/b/custom_nodes/Pack_x_1")
    assert wire.unpacked(sent) == {"prompt": Prompt("a cat"), "numbers": [1, 2.5]}


def test_other_classes_and_tensors_stay_what_they_are():
    value = {"weights": torch.arange(6.0).reshape(2, 3), "kind": torch.nn.Linear}
    found = wire.unpacked(wire.packed(value))
    assert torch.equal(found["weights"], value["weights"]) and found["kind"] is torch.nn.Linear


def test_a_folder_whose_name_begins_alike_is_another_one():
    assert wire.unpacked(("post", wire.packed(Prompt("a"))[1])) == Prompt("a")
