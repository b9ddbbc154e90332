from __future__ import annotations

import math

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, RewardInfo, score
from posttrain.rewards.composite.formula import FormulaReward, parse
from posttrain.rewards.rules.colour import ColourReward

A, B = torch.tensor([0.5, -2.0], dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)


class Fixed:
    def __init__(self, values):
        self.values, self.info = values, RewardInfo("fixed", 0, 1, False, True, "")

    def __call__(self, images, prompts):
        return self.values


@pytest.mark.parametrize("text, expected", [
    ("a + b * 2", lambda a, b: a + b * 2), ("(a+b)*2", lambda a, b: (a + b) * 2), ("-a^2", lambda a, b: -(a**2)),
    ("2^3^2 + a*0", lambda a, b: 512 + a * 0), ("a - b - 1", lambda a, b: a - b - 1), ("8/b/2", lambda a, b: 8 / b / 2),
    ("1e-3*a + .5 + 2.", lambda a, b: 1e-3 * a + 2.5), ("--a", lambda a, b: a), ("2*-a", lambda a, b: -2 * a),
    ("b^-1", lambda a, b: 1 / b), ("max(a, b, 3.5)", lambda a, b: torch.tensor([3.5, 4.0])),
    ("min(a, 0)", lambda a, b: torch.tensor([0.0, -2.0])), ("clip(a, -1, 0.25)", lambda a, b: torch.tensor([0.25, -1.0])),
    ("sqrt(b) + log(b) + exp(a)", lambda a, b: b.sqrt() + b.log() + a.exp()), ("tanh(a)*sigmoid(b)", lambda a, b: a.tanh() * b.sigmoid()),
    ("abs(a) + relu(a)", lambda a, b: a.abs() + a.relu()), ("a < 0", lambda a, b: torch.tensor([0.0, 1.0])),
    ("(b > 3.5) * 2 + a > 0", lambda a, b: ((b > 3.5) * 2 + a > 0).double()),
])
def test_values(text, expected):
    found = parse(text)[0]({"a": A, "b": B})
    assert torch.allclose(found.expand(2), expected(A, B).double(), atol=1e-12)


@pytest.mark.parametrize("text, message", [
    ("", "ends too early"), ("a +", "ends too early"), ("a b", "'b' is not expected"), ("(a", "ends too early"),
    ("a)", r"'\)' is not expected"), ("min(a b)", r"'\)' is missing before 'b'"), ("clip(a, 1)", "clip takes 3 values, got 2"),
    ("abs()", "not expected"), ("__import__('os')", "cannot be used"), ("open(a)", "no function 'open'"),
    ("a.b", "'.' cannot be used"), ("a if a else b", "'if' is not expected"), ("a; b", "';' cannot be used"),
    ("[a]", r"'\[' cannot be used"), ("lambda: a", "':' cannot be used"), ("a == b", "'=' cannot be used"),
    ("(" * 60 + "a" + ")" * 60, "nested too deeply"), ("-" * 60 + "a", "nested too deeply"), ("a+" * 300 + "a", "longer than"),
    ("2^" * 60 + "a", "nested too deeply"),
])
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=f"formula.*{message}"):
        parse(text)


def test_unknown_and_unused_names():
    with pytest.raises(ValueError, match=r"'c' is neither a connected reward \(a\) nor a function"):
        FormulaReward("a + c", (("a", Fixed(A)),))
    with pytest.raises(ValueError, match="uses no reward"):
        FormulaReward("1 + 2", (("a", Fixed(A)),))


def test_failures_spread_only_through_what_is_used():
    broken = torch.tensor([torch.nan, 1.0])
    images, prompts = torch.zeros(2, 2, 2, 3), [Prompt("")] * 2
    used = FormulaReward("(a > 0) + b", (("a", Fixed(broken)), ("b", Fixed(B))))
    assert score(used, images, prompts, [0, 0]).values.isnan().tolist() == [True, False]
    unused = FormulaReward("b", (("a", Fixed(broken)), ("b", Fixed(B))))
    scores = score(unused, images, prompts, [0, 0])
    assert scores.values.tolist() == [3, 4] and set(scores.members) == {"fixed", "fixed 2"}


def test_division_by_zero_is_a_failure_and_gradients_pass():
    reward = FormulaReward("1 / (a - a)", (("a", Fixed(A)),))
    assert score(reward, torch.zeros(2, 2, 2, 3), [Prompt("")] * 2, [0, 0]).stats["failed"] == 2
    images = torch.rand(2, 4, 4, 3, requires_grad=True)
    FormulaReward("exp(x) * 2", (("x", ColourReward("brightness")),))(images, [Prompt("")] * 2).sum().backward()
    assert images.grad.abs().sum() > 0 and math.isfinite(images.grad.sum().item())
