"""ComfyUI starts with the pack, quickly, and every node explains itself."""
from __future__ import annotations

import pytest
from posttrain.tools.host import PACK
from posttrain.tools.import_pack import import_cost

HEAVY = {"accelerate", "cv2", "diffusers", "matplotlib", "pandas", "peft", "requests", "scipy", "sklearn", "torchvision",
         "transformers"}


@pytest.fixture(scope="module")
def nodes(host) -> dict[str, dict]:
    return {name: info for name, info in host.object_info().items() if name.startswith("PT")}


@pytest.fixture(scope="module")
def cost() -> dict:
    return import_cost(runs=1)


def test_host_loads_the_pack(host):
    about_pack = [line for line in host.log_text().splitlines() if PACK in line]
    assert any("seconds" in line for line in about_pack), host.log_tail()
    assert not [line for line in about_pack if "FAILED" in line], host.log_tail()


def test_host_offers_every_node(nodes, cost):
    assert len(nodes) == cost["nodes"] > 20


def test_every_node_has_plain_words(nodes):
    faults = []
    for name, info in nodes.items():
        if info["display_name"] == name or "PT" in info["display_name"]:
            faults.append(f"{name}: display name {info['display_name']!r}")
        if not info["category"].startswith("PostTrain"):
            faults.append(f"{name}: category {info['category']!r}")
        if len(info["description"]) < 20:
            faults.append(f"{name}: description {info['description']!r}")
    assert not faults


def test_every_input_has_a_tooltip(nodes):
    faults = []
    for name, info in nodes.items():
        for group in ("required", "optional"):
            for key, spec in info["input"].get(group, {}).items():
                if len(spec) < 2 or not spec[1].get("tooltip", "").strip():
                    faults.append(f"{name}.{key}")
    assert not faults


def test_every_output_has_name_and_tooltip(nodes):
    """Of the nodes that a user can place; the loop's internal ones are marked as deprecated."""
    placed = {name: info for name, info in nodes.items() if not info.get("deprecated")}
    assert len(placed) > 20
    assert not [name for name, info in placed.items()
                if not all(info["output_name"]) or len(info.get("output_tooltips") or []) != len(info["output"])]


def test_import_takes_no_time(cost):
    assert cost["seconds"] < 0.3


def test_import_brings_no_heavy_library(cost):
    assert not HEAVY & set(cost["modules"])
