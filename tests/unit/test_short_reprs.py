"""Whatever a value holds, its repr is short: the host writes it into the history and the log where a node fails."""

from __future__ import annotations

import dataclasses
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from posttrain.tests.unit.test_structure import python_files

MOST = 400
SCALARS = re.compile(r"(int|float|bool|str|None|type|slice|Path|Callable.*|tuple\[(int|float)(, (int|float|\.\.\.))*\]|[ |])+")
HUGE_TEXT = "a long prompt \u2028\ud800\n" * 3_000
HUGE = {
    "tensor": torch.zeros(500, 500),
    "text": HUGE_TEXT,
    "tuple": (HUGE_TEXT,) * 100,
    "dict": {HUGE_TEXT: torch.zeros(1000)},
    "bytes": bytes(10**6),
    "object": SimpleNamespace(text=HUGE_TEXT),
    "number": 10**300,
    "type": dict,
    "None": None,
}


def dataclasses_of_the_pack() -> list[type]:
    """Every dataclass of the published code that holds more than numbers and words of menus."""
    import importlib

    found = {}
    for name in python_files():
        if name == "__init__.py" or name.split("/")[0] not in ("nodes", "trainers", "rewards", "toy", "ray_run"):
            continue
        module = importlib.import_module("posttrain." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
        for each in vars(module).values():
            if isinstance(each, type) and dataclasses.is_dataclass(each) and each.__module__ == module.__name__:
                kinds = [str(field.type) for field in dataclasses.fields(each)]
                if not all(SCALARS.fullmatch(kind) for kind in kinds):
                    found[f"{each.__module__}.{each.__qualname__}"] = each
    return list(found.values())


CLASSES = dataclasses_of_the_pack()


def test_the_values_on_the_sockets_are_among_them():
    names = {each.__name__ for each in CLASSES}
    assert {
        "Policy",
        "PromptSet",
        "Rollout",
        "Scores",
        "Advantages",
        "Preferences",
        "Labels",
        "Dataset",
        "EncodedData",
        "StepReward",
        "Trainer",
        "Loop",
        "Adopted",
        "WeightedSum",
        "Ensemble",
        "FormulaReward",
        "Adversary",
        "Prompt",
    } <= names
    assert len(CLASSES) > 40 and sys.modules["posttrain.nodes"]


@pytest.mark.parametrize("kind", HUGE)
@pytest.mark.parametrize("of", CLASSES, ids=lambda each: each.__name__)
def test_a_repr_is_short_and_can_be_written(of, kind):
    value = object.__new__(of)
    for field in dataclasses.fields(of):
        object.__setattr__(value, field.name, HUGE[kind])
    for told in (repr(value), str(value), f"{value}"):
        short = len(told.encode("utf-8", "surrogatepass")) <= MOST and of.__name__ in told and "\n" not in told
        assert short, f"{of.__name__}: {len(told)} characters"
        told.encode("utf-8")


def test_objects_on_sockets_that_are_no_dataclass_hold_nothing_in_their_repr():
    from posttrain.rewards.base.reward import Reward
    from posttrain.rewards.rules.ocr import OCRReward
    from posttrain.rewards.vlm.judge import JudgeReward
    from posttrain.rewards.vlm.server import Server

    judge = JudgeReward(Server("http://127.0.0.1/v1", "m"), text="{prompt}" + HUGE_TEXT)
    for value in (judge, OCRReward()):
        assert isinstance(value, Reward) and len(str(value)) < MOST
