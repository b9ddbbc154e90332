"""Every number that a trainer or the optimizer takes: out of range it is named, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import ClassVar

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.trainers.engine.limits import (
    ABOVE_0,
    ANY,
    BELOW_1,
    FROM_0,
    FROM_0_TO_1,
    FROM_1,
    FROM_2,
    INSIDE_0_1,
    LARGEST,
    check_limits,
)
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, backprop_step, train_step
from small_models import trained_policy

CLASSES = [*METHODS, Optimizer]
NODES = {name: node for name, node in NODE_CLASS_MAPPINGS.items() if node.RETURN_TYPES == ("PT_TRAINER",)}


def numbers_of(kind: type) -> set[str]:
    return {field.name for field in fields(kind) if field.type.split(" ")[0] in ("int", "float")}


def bad(kind: type):
    """(settings, the name at fault): below the least, above the most, infinite, not a number."""
    for name, limits in kind.LIMITS.items():
        below, above = (
            -math.inf if limits.least == -LARGEST else limits.least - 1,
            math.inf if limits.most == LARGEST else limits.most + 1,
        )
        for value in (below, above, math.nan):
            yield kind(**{name: value}), limits.name or name.replace("_", " ")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_number_has_its_limits_and_its_usual_value_is_within_them(kind):
    assert set(kind.LIMITS) == numbers_of(kind)
    check_limits(kind())


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_out_of_range_it_is_refused_before_anything_else(kind):
    """No rollout, feedback or policy is looked at: there is none."""
    for settings, name in bad(kind):
        trainer = Trainer(FlowGRPO(), settings) if kind is Optimizer else Trainer(settings, Optimizer())
        with pytest.raises(ValueError, match=f"^{name}: .* it must be "):
            if kind in METHODS and METHODS[kind].needs == OWN_IMAGES:
                backprop_step(None, None, None, None, None, trainer)
            else:
                train_step(None, None, None, trainer)


@pytest.mark.parametrize("name", NODES)
def test_what_a_widget_allows_is_within_the_limits(name):
    """Each widget at its least and at its most, the others at their defaults."""
    inputs = {kind: {key: tuple(spec) for key, spec in specs.items()} for kind, specs in NODES[name].INPUT_TYPES().items()}
    defaults = {
        key: options.get("default", kind[0] if isinstance(kind, tuple) else None)
        for specs in inputs.values()
        for key, (kind, options) in specs.items()
    }
    for specs in inputs.values():
        for key, (kind, options) in specs.items():
            for end in ("min", "max") if kind in ("INT", "FLOAT") else ():
                (trainer,) = NODES[name]().run(**defaults | {key: options[end]})
                check_limits(trainer.settings)
                check_limits(trainer.optimizer)


def test_a_policy_is_as_it_was_after_a_refusal():
    policy = trained_policy("sd3")
    before = {key: value.clone() for key, value in policy.bank.items()}
    with pytest.raises(ValueError, match="learning rate"):
        train_step(policy, None, None, Trainer(FlowGRPO(), replace(Optimizer(), learning_rate=math.nan)))
    assert all(bool((before[key] == policy.bank[key]).all()) for key in before)


NEXT = math.nextafter(1.0, 0.0)  # the number just below 1


@pytest.mark.parametrize(
    "limits, inside, outside, ends",
    [
        (ANY, (-1e308, 0, 1e308), (math.inf, -math.inf, math.nan), {}),
        (FROM_0, (0, 0.5, 1e308), (-1e-300, math.inf), {"min": 0}),
        (ABOVE_0, (1e-300, 1e308), (0, -1e-300, math.inf), {"min": 1e-9}),
        (FROM_1, (1, 1e308), (NEXT, math.inf), {"min": 1}),
        (FROM_2, (2, 3), (1.999, math.inf), {"min": 2}),
        (FROM_0_TO_1, (0, 0.5, 1), (-1e-300, 1.0001), {"min": 0, "max": 1}),
        (BELOW_1, (0, 0.999999), (-1e-300, 1), {"min": 0, "max": BELOW_1.most}),
        (INSIDE_0_1, (1e-300, 0.999999), (0, 1), {"min": 1e-9, "max": BELOW_1.most}),
    ],
)
def test_limits_allow_what_they_say_and_give_a_widget_its_ends(limits, inside, outside, ends):
    class Settings:
        LIMITS: ClassVar[dict] = {"share": limits}
        share = 0.5

    for value in (*inside, None, *outside):
        settings = Settings()
        settings.share = value
        if value in outside:
            with pytest.raises(ValueError, match=f"^share: .* it must be {limits.words} .0.5 is usual"):
                check_limits(settings)
        else:
            check_limits(settings)
    assert limits.ends() == ends and 1 - 1e-12 < BELOW_1.most < 1
