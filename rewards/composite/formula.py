"""A reward calculated from other rewards by a formula such as "a + 0.5*min(b, 1) - 2*(c < 0.2)".

The text is parsed here, by hand: numbers, names, + - * / ^, < >, parentheses and a few functions, nothing else. Nothing
of it is ever run as Python. Range: whatever the formula gives. A member that failed makes the result NaN if the formula
uses it. Differentiable where its members and functions are.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.reward import Judgement, Prompt, Reward, RewardInfo, as_reward, compares, groups_of
from ..base.words import brief
from .combine import all_networks, evaluate_members, merged_counts

Values = dict[str, Tensor]
Node = Callable[[Values], Tensor]
LONGEST, DEEPEST = 500, 40
FUNCTIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {  # arguments (0 = one or more), what it does
    "min": (0, lambda *x: torch.stack(torch.broadcast_tensors(*x)).amin(0)),
    "max": (0, lambda *x: torch.stack(torch.broadcast_tensors(*x)).amax(0)),
    "clip": (3, lambda x, low, high: torch.maximum(torch.minimum(x, high), low)),
    "abs": (1, torch.abs), "exp": (1, torch.exp), "log": (1, torch.log), "sqrt": (1, torch.sqrt),
    "tanh": (1, torch.tanh), "sigmoid": (1, torch.sigmoid), "relu": (1, torch.relu),
}
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)|([A-Za-z_]\w*)|([-+*/^()<>,]))")


@dataclass(frozen=True)
class FormulaReward:
    """members: name in the formula -> reward. Raises ValueError for a formula that cannot be read."""

    text: str
    members: tuple[tuple[str, Reward], ...]
    __repr__ = brief

    def __post_init__(self):
        object.__setattr__(self, "members", tuple((name, as_reward(reward)) for name, reward in self.members))
        used = parse(self.text)[1]
        missing = used - {name for name, _ in self.members}
        if missing:
            raise ValueError(f"formula: '{sorted(missing)[0]}' is neither a connected reward "
                             f"({', '.join(n for n, _ in self.members) or 'none'}) nor a function "
                             f"({', '.join(FUNCTIONS)}).")
        if not used:
            raise ValueError("formula: it uses no reward, so every image would get the same score.")

    @property
    def info(self) -> RewardInfo:
        infos = [r.info for n, r in self.members if n in parse(self.text)[1]]
        return RewardInfo(f"formula ({self.text})", None, None, any(i.needs_prompt for i in infos),
                          all(i.differentiable for i in infos), "Calculated from other rewards.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.evaluate(images, prompts, groups_of(prompts)).values

    def evaluate(self, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
        found, shown = evaluate_members([r for _, r in self.members], images, prompts, groups)
        values = {name: v.cpu().double() for (name, _), v in zip(self.members, found)}
        return Judgement(parse(self.text)[0](values).expand(images.shape[0]), shown)

    def counts(self) -> dict[str, float]:
        return merged_counts([r for _, r in self.members])

    def networks(self) -> list:
        return all_networks([r for _, r in self.members])

    @property
    def compares(self) -> bool:
        return any(compares(r) for _, r in self.members)


def parse(text: str) -> tuple[Node, set[str]]:
    """The formula as a function of named values, and the names that it uses. Raises ValueError."""
    if len(text) > LONGEST:
        raise ValueError(f"formula: longer than {LONGEST} characters.")
    parser = _Parser(_tokens(text), text)
    node = parser.comparison(0)
    if parser.now is not None:
        raise parser.error(f"'{parser.now}' is not expected there")
    return node, parser.names


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"formula: '{text[at:].strip()[:1]}' cannot be used. Allowed are numbers, names, + - * / ^ < > "
                             f"( ) and {', '.join(FUNCTIONS)}.")
        found.append(match[0].strip())
        at = match.end()
    return found


class _Parser:
    """Recursive descent: one method per level of binding, the loosest first."""

    def __init__(self, tokens: list[str], text: str):
        self._tokens, self._at, self._text = tokens, 0, text
        self.names: set[str] = set()

    @property
    def now(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def take(self) -> str:
        if self.now is None:
            raise self.error("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def error(self, what: str) -> ValueError:
        return ValueError(f"formula: cannot read '{self._text}': {what}.")

    def comparison(self, depth: int) -> Node:
        left = self.sum(depth)
        while self.now in ("<", ">"):
            sign, right = self.take(), self.sum(depth)
            left = _compare(left, right) if sign == "<" else _compare(right, left)
        return left

    def sum(self, depth: int) -> Node:
        left = self.product(depth)
        while self.now in ("+", "-"):
            left = _binary(torch.add if self.take() == "+" else torch.sub, left, self.product(depth))
        return left

    def product(self, depth: int) -> Node:
        left = self.negation(depth)
        while self.now in ("*", "/"):
            left = _binary(torch.mul if self.take() == "*" else torch.div, left, self.negation(depth))
        return left

    def negation(self, depth: int) -> Node:
        if depth > DEEPEST:
            raise self.error("it is nested too deeply")
        if self.now == "-":
            self.take()
            inner = self.negation(depth + 1)
            return lambda values: -inner(values)
        return self.power(depth)

    def power(self, depth: int) -> Node:
        base = self.atom(depth)
        if self.now != "^":
            return base
        self.take()
        return _binary(torch.pow, base, self.negation(depth + 1))

    def atom(self, depth: int) -> Node:
        token = self.take()
        if token == "(":
            inner = self.comparison(depth + 1)
            self._expect(")")
            return inner
        if token[0].isdigit() or token[0] == ".":
            number = torch.tensor(float(token), dtype=torch.float64)
            return lambda values: number
        if not token[0].isalpha() and token[0] != "_":
            raise self.error(f"'{token}' is not expected there")
        if self.now == "(":
            return self.call(token, depth)
        self.names.add(token)
        return lambda values: values[token]

    def call(self, name: str, depth: int) -> Node:
        if name not in FUNCTIONS:
            raise self.error(f"there is no function '{name}'; known are {', '.join(FUNCTIONS)}")
        self._expect("(")
        inputs = [self.comparison(depth + 1)]
        while self.now == ",":
            self.take()
            inputs.append(self.comparison(depth + 1))
        self._expect(")")
        count, function = FUNCTIONS[name]
        if count and len(inputs) != count:
            raise self.error(f"{name} takes {count} value{'s' if count > 1 else ''}, got {len(inputs)}")
        return lambda values: function(*(node(values) for node in inputs))

    def _expect(self, token: str) -> None:
        if self.take() != token:
            raise self.error(f"'{token}' is missing before '{self._tokens[self._at - 1]}'")


def _binary(function: Callable[[Tensor, Tensor], Tensor], left: Node, right: Node) -> Node:
    return lambda values: function(left(values), right(values))


def _compare(low: Node, high: Node) -> Node:
    """1 where low < high, 0 elsewhere, NaN where either is NaN: a failure must not become a 0."""
    def node(values: Values) -> Tensor:
        a, b = low(values), high(values)
        return torch.where(a.isnan() | b.isnan(), torch.nan, (a < b).double())

    return node
