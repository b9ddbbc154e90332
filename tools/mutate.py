"""Changes one sign, comparison, order or constant at a time, and lists the changes that no test notices.

    python develop.py mutate trainers/losses/ddpo.py [more files or folders] [--tests PATH ...] [--limit N]

torch, the host and pytest are imported once; each change runs in a fork of that process, which reads the pack anew with
the changed module in it and stops at the first failing test. A change that takes longer than allowed counts as noticed.
Not changed: strings, what is raised, annotations, defaults of parameters and of settings. KNOWN lists changes that alter
no result, with the reason.
"""
from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KNOWN = ROOT / "tools" / "mutants.txt"  # a line each: file | function | old -> new | reason
SECONDS = 120
SWAPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Lt: ast.GtE, ast.GtE: ast.Lt,
           ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
           ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
EDGES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
NAMES = {"min": "max", "minimum": "maximum", "amin": "amax", "argmin": "argmax", "clamp_min": "clamp_max", "sum": "mean"}
NAMES |= {new: old for old, new in NAMES.items()}
COMMUTES = {"min", "max", "minimum", "maximum"}


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """The changed forms of one expression."""
    def changed(**fields):
        new = copy.copy(node)
        for key, value in fields.items():
            setattr(new, key, value)
        return new

    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        yield changed(op=SWAPPED[type(node.op)]())
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
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
                yield changed(args=[*node.args[:k], node.args[k + 1], node.args[k], *node.args[k + 2:]])
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)) and len(node.generators) == 2:
        yield changed(generators=node.generators[::-1])


def places(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST, str, int | None]]:
    """(function, parent, field, index in the field) of every expression that may be changed."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "defaults", "kw_defaults", "decorator_list", "exc"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(tree, ast.ClassDef) and isinstance(child, (ast.AnnAssign, ast.Assign)):
                continue
            if isinstance(child, ast.If) and isinstance(child.body[0], ast.Raise):
                continue  # what is refused has tests of its own
            name = f"{inside}.{child.name}".strip(".") if isinstance(child, (ast.FunctionDef, ast.ClassDef)) else inside
            yield inside, tree, field, index
            yield from places(child, name)


def mutants(source: str) -> Iterator[tuple[str, str, int, str]]:
    """(function, "old -> new", line, the changed source) of each change."""
    tree = ast.parse(source)
    for function, parent, field, index in list(places(tree)):
        held = getattr(parent, field)
        old = held if index is None else held[index]
        for new in variants(old):
            line = getattr(old, "lineno", 0)
            if index is None:
                setattr(parent, field, new)
            else:
                held[index] = new
            yield function, f"{ast.unparse(old)} -> {ast.unparse(ast.fix_missing_locations(new))}", line, ast.unparse(tree)
            if index is None:
                setattr(parent, field, old)
            else:
                held[index] = old


class Changed:
    """Finds one module of the pack with other source."""

    def __init__(self, module: str, path: Path, source: str):
        self.module, self.path, self.source = module, path, source

    def find_spec(self, name, path=None, target=None):
        from importlib.util import spec_from_loader
        return spec_from_loader(name, self, origin=str(self.path)) if name == self.module else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__file__ = str(self.path)
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def noticed(module: str, path: Path, source: str | None, tests: list[str]) -> bool:
    """Whether a test fails with this source; None: with the file as it is."""
    child = os.fork()
    if not child:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            import pytest
            if source is not None:
                sys.meta_path.insert(0, Changed(module, path, source))
            code = pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        os._exit(int(code))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def tests_of(path: Path) -> list[str]:
    """Test files that import the module, the shortest first: a loss's own come before whole train steps."""
    dotted = "posttrain." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package, _, name = dotted.rpartition(".")
    found = [test for test in (ROOT / "tests" / "unit").rglob("test_*.py") if any(
        line.startswith((f"from {dotted} import", f"import {dotted}")) or line.startswith(f"from {package} import") and name in line
        for line in test.read_text(encoding="utf-8").splitlines())]
    return [str(test) for test in sorted(found, key=lambda test: ("policy" in test.parts, test.stat().st_size))]


def known(path: Path) -> set[tuple[str, str]]:
    lines = KNOWN.read_text(encoding="utf-8").splitlines() if KNOWN.is_file() else []
    rows = [[part.strip() for part in line.split(" | ")] for line in lines if line.strip() and not line.startswith("#")]
    return {(row[1], row[2]) for row in rows if row[0] == path.relative_to(ROOT).as_posix() and row[3]}


def examined(path: Path, tests: list[str], limit: int | None) -> int:
    """Prints the survivors of a file and gives their number."""
    tests = tests or tests_of(path)
    name = path.relative_to(ROOT).as_posix()
    if not tests:
        print(f"{name}: no test file imports it, so nothing was tried; choose tests with --tests", flush=True)
        return 1
    module = "posttrain." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if noticed(module, path, None, tests):
        raise SystemExit(f"{name}: its tests fail, or take over {SECONDS} s, before anything is changed: {' '.join(tests)}")
    every, same = list(mutants(path.read_text(encoding="utf-8"))), known(path)
    tried = [row for row in every if row[:2] not in same][:limit]
    left = [row for row in tried if not noticed(module, path, row[3], tests)]
    for function, change, line, _ in left:
        print(f"  {name}:{line} {function}: {change}", flush=True)
    print(f"{name}: {len(tried)} of {len(every)} changes tried, {len(left)} noticed by no test", flush=True)
    return len(left)


def main() -> int:
    parser = argparse.ArgumentParser(prog="develop.py mutate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=["trainers/losses"], help="files or folders of the pack")
    parser.add_argument("--tests", nargs="+", default=[], help="test files, instead of those that import the module")
    parser.add_argument("--limit", type=int, help="try at most this many changes of each file")
    chosen = parser.parse_args()
    files = [file for path in chosen.paths for file in ([Path(path)] if path.endswith(".py") else sorted(Path(path).rglob("*.py")))]
    warm()
    return int(sum(examined(file.resolve(), chosen.tests, chosen.limit) for file in files if file.name != "__init__.py") > 0)


def warm() -> None:
    """What every fork needs and no change touches; of the pack nothing, or a fork would not read it anew."""
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401
    sys.path.append(os.environ["COMFYUI_DIR"])
    import comfy.options
    comfy.options.enable_args_parsing(False)
    import comfy.cli_args
    comfy.cli_args.args.cpu = True
    import comfy.sd  # noqa: F401
    import comfy.supported_models  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
