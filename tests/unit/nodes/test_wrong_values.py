"""Every widget and every socket of every node with values that it cannot have, as they come by wire or from another program
through the API: each is refused in words that name the input, before anything is done."""

from __future__ import annotations

import asyncio
import inspect
import math
from types import SimpleNamespace

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS

MOST = 4000  # bytes of an error
NOT_NUMBERS = [
    None,
    "",
    "5",
    "x" * 10**6,
    [],
    [1],
    (1,),
    {},
    {"a": 1},
    object(),
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -(10**400),
    1e308,
    -1e308,
    b"1",
    1 + 2j,
    SimpleNamespace(value=3),
    [[1] * 1000] * 1000,
    "nan",
    "1e999",
    "٣",
    {1, 2},
    range(3),
    int,
    bytearray(b"1"),
]
NOT_TEXTS = [
    None,
    5,
    1.5,
    math.nan,
    True,
    [],
    ["a"],
    {},
    b"bytes",
    object(),
    "\ud800",
    "a\udfffb",
    "x" * 2_000_000,
    SimpleNamespace(text="x"),
    {"a"},
    bytearray(b"a"),
    str,
    10**400,
]
NOT_CHOICES = [
    None,
    "",
    "no such word",
    "x" * 10**6,
    "\ud800",
    math.nan,
    12345.5,
    [],
    ["auto"],
    {},
    (),
    object(),
    b"auto",
    10**400,
    "\x00",
    {"auto"},
    str,
    -1,
]
NOT_BOOLEANS = [None, "", "true", "False", [], [True], {}, math.nan, 0.5, object(), b"1"]


def wrong_values(kind, options) -> list:
    if kind in ("INT", "FLOAT"):
        low, high = options.get("min"), options.get("max")
        ends = [] if low is None else [low - 1, low - 1e9]
        ends += [] if high is None else [high + 1, high * 2 + 1e9]
        unbounded = [value for value in (10**400, 1e308) if high is None] + [
            value for value in (-(10**400), -1e308) if low is None
        ]
        fractions = [] if kind == "FLOAT" else [(low or 0) + 0.5]
        return (
            [value for value in NOT_NUMBERS if not any(value is each or value == each for each in unbounded)] + ends + fractions
        )
    if kind == "STRING":
        return NOT_TEXTS
    if kind == "BOOLEAN":
        return NOT_BOOLEANS
    return NOT_CHOICES if isinstance(kind, (list, tuple)) else [None]


def inputs_of(node):
    for group in ("required", "optional"):
        for name, spec in node.INPUT_TYPES().get(group, {}).items():
            yield group, name, spec[0], spec[1] if len(spec) > 1 else {}


def usual(kind, options):
    if "default" in options:
        return options["default"]
    if isinstance(kind, (list, tuple)):
        return kind[0]
    return {"INT": options.get("min", 0), "FLOAT": options.get("min", 0.0), "STRING": "x", "BOOLEAN": False}.get(kind, object())


def called(node, arguments):
    run = getattr(node(), node.FUNCTION)
    answer = run(**({key: [value] for key, value in arguments.items()} if getattr(node, "INPUT_IS_LIST", False) else arguments))
    return asyncio.run(answer) if inspect.iscoroutine(answer) else answer


CASES = [(node_id, *each) for node_id, node in NODE_CLASS_MAPPINGS.items() for each in inputs_of(node)]


def explained_by_the_node(node, name) -> bool:
    """Menus of files and names of runs: the host asks VALIDATE_INPUTS, and the node says more than that it is none of a list."""
    return hasattr(node, "VALIDATE_INPUTS") and name in inspect.signature(node.VALIDATE_INPUTS).parameters


def test_every_input_of_every_node_is_asked():
    tried = sum(len(wrong_values(kind, options)) for _, _, _, kind, options in CASES)
    assert len(NODE_CLASS_MAPPINGS) > 60 and len(CASES) > 400 and tried >= 10_000, f"{tried} wrong values"


@pytest.mark.parametrize("node_id", NODE_CLASS_MAPPINGS)
def test_a_wrong_value_is_refused_in_words_that_name_its_input(node_id):
    node = NODE_CLASS_MAPPINGS[node_id]
    inputs = list(inputs_of(node))
    sound = {name: usual(kind, options) for group, name, kind, options in inputs}
    for group, name, kind, options in inputs:
        if options.get("lazy") or isinstance(kind, (list, tuple)) and explained_by_the_node(node, name):
            continue
        for number, value in enumerate(wrong_values(kind, options)):
            if value is None and group == "optional" or kind == "*":
                continue
            try:
                called(node, sound | {name: value})
            except ValueError as error:
                words = str(error)
                assert words.startswith(f"{name}: ") and len(words.encode("utf-8")) <= MOST, f"{name}, {number}: {words[:200]}"
            else:
                pytest.fail(f"{node_id}.{name} takes wrong value {number} of {kind}")


NO_NAMES = {("PTGoal", "folder_or_words")}  # free words, or a folder, as the goal has it


@pytest.mark.parametrize(
    "node_id, name",
    [
        (node_id, name)
        for node_id, node in NODE_CLASS_MAPPINGS.items()
        if hasattr(node, "VALIDATE_INPUTS")
        for name in inspect.signature(node.VALIDATE_INPUTS).parameters
    ],
)
def test_names_are_refused_before_the_queue_and_when_they_come_by_wire(node_id, name):
    node = NODE_CLASS_MAPPINGS[node_id]
    kind = next(kind for _, each, kind, _ in inputs_of(node) if each == name)
    for value in NOT_TEXTS + ["con", "a/../b", "a\0", "\u2028", "x" * 500, "  ", ".."]:
        others = {each: "auto" for each in inspect.signature(node.VALIDATE_INPUTS).parameters if kind != "STRING"}
        said = node.VALIDATE_INPUTS(**others | {name: value})
        assert said is True or isinstance(said, str) and len(said.encode("utf-8")) <= MOST
        if kind == "STRING" and value is not None and (node_id, name) not in NO_NAMES:
            assert isinstance(said, str) and said


@pytest.mark.parametrize("node_id", [node_id for node_id, node in NODE_CLASS_MAPPINGS.items() if hasattr(node, "IS_CHANGED")])
def test_is_changed_never_raises(node_id):
    node = NODE_CLASS_MAPPINGS[node_id]
    inputs = [
        (name, kind)
        for _, name, kind, options in inputs_of(node)
        if kind in ("STRING", "INT", "FLOAT") or isinstance(kind, (list, tuple))
    ]
    for wrong, _ in inputs:
        for value in [*NOT_TEXTS, "/etc/passwd", "..", "con", "x" * 5000]:
            arguments = {name: None if name != wrong else value for name, _ in inputs}
            node.IS_CHANGED(**arguments)
