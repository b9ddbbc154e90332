"""Workflows as the pack shipped them before: every node takes them as they are.

tests/older/workflows.json holds them node by node: the sockets, the widgets in the order in which the page writes their values,
which of them are wired, and the values.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.trainers.run.folder import WHEN_EXISTS

OLDER = json.loads((Path(__file__).parents[2] / "older" / "workflows.json").read_text("utf-8"))
SHIPPED = Path(__file__).resolve().parents[3] / "workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")


def inputs_of(node: type) -> dict[str, tuple]:
    return {key: spec for kind in ("required", "optional") for key, spec in node.INPUT_TYPES().get(kind, {}).items()}


def is_widget(spec: tuple) -> bool:
    return (isinstance(spec[0], (list, tuple)) or spec[0] in WIDGETS) and not (spec[1:] and spec[1].get("forceInput"))


def fault(spec: tuple, value) -> str:
    """What is wrong with a widget's value, or nothing."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if isinstance(kind, (list, tuple)):
        return "" if value in kind or "auto" in kind else f"is not among {kind}"
    if kind == "BOOLEAN" or kind == "STRING":
        return "" if isinstance(value, {"BOOLEAN": bool, "STRING": str}[kind]) else f"is no {kind}"
    inside = options.get("min", value) <= value <= options.get("max", value)
    return "" if inside else f"is outside {options.get('min')} to {options.get('max')}"


@pytest.mark.parametrize("name", OLDER)
def test_each_node_takes_what_was_saved(name):
    faults = []
    for saved in OLDER[name]:
        node = NODE_CLASS_MAPPINGS[saved["type"]]
        inputs, widgets = inputs_of(node), [key for key, _ in saved["widgets"]]
        now = [key for key, spec in inputs.items() if is_widget(spec)]
        assert now[: len(widgets)] == widgets, f"{saved['type']}: the page gives its values out by their order"
        assert all("default" in inputs[key][1] or isinstance(inputs[key][0], (list, tuple)) for key in now[len(widgets) :])
        faults += [
            f"{saved['type']}.{key}: {value!r} {said}"
            for (key, wired), value in zip(saved["widgets"], saved["values"])
            if not wired and (said := fault(inputs[key], value))
        ]
        faults += [
            f"{saved['type']}.{key} is no {kind}"
            for key, kind in saved["inputs"]
            if key not in inputs or not set(kind.split(",")) <= set(str(inputs[key][0]).split(","))
        ]
        names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
        assert list(zip(names, node.RETURN_TYPES))[: len(saved["outputs"])] == [tuple(each) for each in saved["outputs"]]
    assert not faults and OLDER[name]


def test_they_are_the_workflows_that_still_have_their_names():
    """Whoever takes one out of the pack must not take it out of here: people have saved it."""
    assert {path.stem for path in SHIPPED.glob("*.json")} >= set(OLDER) and len(OLDER) >= 13


def test_a_fault_is_found():
    choice = (list(WHEN_EXISTS), {})
    assert fault(choice, "nonsense") and not fault(choice, WHEN_EXISTS[0])
    assert fault(("INT", {"min": 1, "max": 3}), 4) and fault(("FLOAT", {"min": 1.0}), 0.5) and fault(("BOOLEAN", {}), "yes")
