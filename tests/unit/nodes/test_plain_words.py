"""Every node explains itself, told from the classes: what tests/host/test_boot.py asks a server for."""

from __future__ import annotations

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from posttrain.tools.make_docs import internal

EACH = pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)


@EACH
def test_it_has_a_name_a_place_and_a_description(name):
    node = NODE_CLASS_MAPPINGS[name]
    assert NODE_DISPLAY_NAME_MAPPINGS[name] != name and "PT" not in NODE_DISPLAY_NAME_MAPPINGS[name]
    assert node.CATEGORY.startswith("PostTrain") and len(node.DESCRIPTION) >= 20


@EACH
def test_every_input_has_a_tooltip(name):
    inputs = NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
    specs = {**inputs.get("required", {}), **inputs.get("optional", {})}
    assert not [key for key, spec in specs.items() if len(spec) < 2 or not spec[1].get("tooltip", "").strip()]


@EACH
def test_every_output_has_a_name_and_a_tooltip(name):
    node = NODE_CLASS_MAPPINGS[name]
    if not internal(node):
        names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
        assert all(names) and len(names) == len(getattr(node, "OUTPUT_TOOLTIPS", ())) == len(node.RETURN_TYPES)
