"""The changed forms of a module: one sign, comparison, order or constant at a time.

Not changed: strings, what is raised, annotations, defaults of parameters and of settings.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
EDGES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
NAMES = {"min": "max", "minimum": "maximum", "amin": "amax", "argmin": "argmax", "clamp_min": "clamp_max", "sum": "mean"}
NAMES |= {new: old for old, new in NAMES.items()}
COMMUTES = {"min", "max", "minimum", "maximum", "squared_error"}
EVEN = {"abs", "square"}  # a difference turned round gives them the same


def variants(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST]:
    """The changed forms of one expression."""

    def changed(**fields):
        new = copy.copy(node)
        for key, value in fields.items():
            setattr(new, key, value)
        return new

    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        yield changed(op=SWAPPED[type(node.op)]())
        even = (
            isinstance(parent, ast.Attribute)
            and parent.attr in EVEN
            or (isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow) and ast.unparse(parent.right) == "2")
        )
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and not even:
            yield changed(left=node.right, right=node.left)
    elif isinstance(node, ast.Compare):
        for table in (SWAPPED, EDGES):
            if type(node.ops[0]) in table:
                yield changed(ops=[table[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        yield changed(value=not value if isinstance(value, bool) else {0: 1, 1: 0}.get(value, value * 2))
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in NAMES:
            func = copy.copy(node.func)
            setattr(func, "attr" if isinstance(func, ast.Attribute) else "id", NAMES[name])
            yield changed(func=func)
        if name == "detach" and isinstance(node.func, ast.Attribute):
            yield node.func.value
        if name not in COMMUTES:
            for k in range(len(node.args) - 1):
                yield changed(args=[*node.args[:k], node.args[k + 1], node.args[k], *node.args[k + 2 :]])
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)) and len(node.generators) == 2:
        yield changed(generators=node.generators[::-1])


def places(
    tree: ast.AST, inside: str = "", span: tuple[int, int] = (0, 0)
) -> Iterator[tuple[str, tuple, ast.AST, str, int | None]]:
    """(function, first and last line of the statement, parent, field, index in the field) of what may be changed."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "defaults", "kw_defaults", "decorator_list", "exc"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if (
                not isinstance(child, ast.AST)
                or isinstance(tree, ast.ClassDef)
                and isinstance(child, (ast.AnnAssign, ast.Assign))
            ):
                continue
            if isinstance(child, ast.If) and isinstance(child.body[-1], ast.Raise):
                continue  # what is refused has tests of its own
            name = f"{inside}.{child.name}".strip(".") if isinstance(child, (ast.FunctionDef, ast.ClassDef)) else inside
            own = lines(child) if isinstance(child, ast.stmt) else span
            yield inside, own, tree, field, index
            yield from places(child, name, own)


def lines(statement: ast.stmt) -> tuple[int, int]:
    """First and last line; of a statement with a body, those of its head."""
    body = getattr(statement, "body", None)
    return statement.lineno, max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno


@dataclass(frozen=True)
class Mutant:
    """One change of a module.

    function: where it is, "" outside of functions. change: "old -> new", with a number where the function has it again.
    line, span: of the expression, and of its statement from first to last. code: the changed module's.
    """

    function: str
    change: str
    line: int
    span: tuple[int, int]
    code: CodeType


def mutants(source: str, path: str) -> Iterator[Mutant]:
    """Every change of the module with this source, one at a time."""
    tree = ast.parse(source)
    seen: Counter[tuple[str, str]] = Counter()
    for function, span, parent, field, index in list(places(tree)):
        held = getattr(parent, field)
        old = held if index is None else held[index]
        for new in variants(old, parent):
            shown = old if not isinstance(old, ast.Constant) or isinstance(parent, ast.stmt) else parent
            before = ast.unparse(shown)
            put(parent, field, index, new)
            after = ast.unparse(new if shown is old else shown)
            code = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
            put(parent, field, index, old)
            if after == before:
                continue  # two arguments alike, turned round
            change = f"{before} -> {after}"
            seen[function, change] += 1
            again = f" ({seen[function, change]})" if seen[function, change] > 1 else ""
            yield Mutant(function, change + again, getattr(old, "lineno", span[0]), span, code)


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node
