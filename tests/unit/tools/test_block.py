"""A block's graph: nodes of shipped workflows with their own models and numbers taken out of them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from posttrain.tools.block import defaults, graph
from posttrain.tools.blocks import BLOCKS
from posttrain.tools.host import ROOT
from posttrain.tools.training import load_workflow

ALL = pytest.mark.parametrize("block", BLOCKS, ids=[block.name for block in BLOCKS])
INPUTS = {"required": {"rank": ("INT", {"default": -1}), "model": ("MODEL", {}), "kind": (["a", "b"],), "name": (["a", "b"], {"default": "b"})},
          "optional": {"new": ("COMBO", {"options": ["x", "y"]}), "off": ("BOOLEAN", {"default": False})}}  # fmt: skip


class Offered(dict):
    """Every node has the same widgets."""

    def __missing__(self, kind):
        return {"input": INPUTS | {"optional": INPUTS["optional"] | {name: ("INT", {"default": 7}) for name in NAMES}}}


NAMES = {place.split(".")[1] for block in BLOCKS for place in block.values}


def test_a_new_nodes_values():
    assert defaults(INPUTS) == {"rank": -1, "kind": "a", "name": "b", "new": "x", "off": False}


@ALL
def test_nothing_of_the_demo_is_left(block):
    found = graph(block, Offered())
    assert list(found) == block.fold.nodes and "PTDemoWorld" not in {node["class_type"] for node in found.values()}
    for node in found.values():
        assert all(link[0] in found for link in node["inputs"].values() if isinstance(link, list))
        if node["class_type"] in ("PTCreatePolicy", "PTNFT", "PTDRaFT", "PTDiffusionDPO"):
            assert node["inputs"]["rank"] == -1, "a number of the demo's own"


@ALL
def test_what_it_takes_and_gives(block):
    first, *rest = [name for name in block.fold.inputs if name in ("model", "clip", "vae")]
    choices = len(block.fold.inputs) - ("folder or words" in block.fold.inputs)  # a goal, and what it is about, are one
    assert (first, rest) == ("model", ["clip", "vae"]) and choices <= 10
    trains = "iterations" in block.fold.inputs
    assert list(block.fold.outputs) == ["model", "LoRA", "curve"] if trains else "before" in block.fold.outputs


def test_what_it_takes_and_gives_has_its_chinese():
    (words,) = re.findall(
        r"^  blocks: \{\n(.*?)^  \}", (ROOT / "web/chinese.js").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    known = {quoted or plain for quoted, plain in re.findall(r'(?:"([^"]+)"|(\w+)):', words)}
    names = {name for block in BLOCKS for name in (*block.fold.inputs, *block.fold.outputs)}
    assert names - known == {"clip", "vae", "LoRA"}, "and what is called so in every language"


def test_prompts_reward_and_goal_are_a_users_own():
    block = next(block for block in BLOCKS if block.name == "Train through a reward")
    found, own = graph(block, Offered()), load_workflow("own_sd15")
    assert (
        found["60"] == own["2"] and found["8"]["class_type"] == "PTRewardCLIP" and found["2"]["inputs"]["prompts"] == ["60", 0]
    )
    assert found["10"]["inputs"]["reward"] == ["8", 0]
    with_goal = next(block for block in BLOCKS if block.name == "Train with a reward")
    assert graph(with_goal, Offered())["7"] == own["7"]


def test_a_value_without_a_widget_is_refused():
    block = replace(BLOCKS[0], values={"5.breadth": 3})
    with pytest.raises(ValueError, match="Train with a reward: PTSampling has no widget breadth"):
        graph(block, Offered())
