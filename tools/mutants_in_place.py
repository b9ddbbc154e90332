"""Puts a changed module's functions in place of those of the running one."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, FunctionType


class Module:
    """The code and the functions of a module that is loaded, found once for all its changes."""

    def __init__(self, path: Path):
        self.code = compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
        self.functions = [
            item for item in gc.get_objects() if isinstance(item, FunctionType) and item.__code__.co_filename == str(path)
        ]

    def becomes(self, new: CodeType) -> bool:
        """Gives the functions the code they have in ``new``; False when that is not all that changed."""
        changed = [(before, after) for before, after in pairs(self.code, new) if before != after]
        if any(own(before) != own(after) and not before.co_flags & inspect.CO_OPTIMIZED for before, after in changed):
            return False  # of the module or of a class: it runs only while the module is read
        codes = {key(before): after for before, after in changed}
        found = [function for function in self.functions if key(function.__code__) in codes]
        for function in found:
            function.__code__ = codes[key(function.__code__)]
        return bool(found)


def pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    yield old, new
    nested = [[const for const in code.co_consts if isinstance(const, CodeType)] for code in (old, new)]
    for before, after in zip(*nested, strict=True):
        yield from pairs(before, after)


def own(code: CodeType) -> tuple:
    """What tells a code object from another, but for those in it."""
    return code.co_code, code.co_names, [repr(const) for const in code.co_consts if not isinstance(const, CodeType)]


def key(code: CodeType) -> tuple:
    return code.co_qualname, code.co_firstlineno, tuple(code.co_positions())


class Changed:
    """Finds one module of the pack with other code."""

    def __init__(self, module: str, path: Path, code: CodeType):
        self.module, self.path, self.code = module, path, code

    def find_spec(self, name, path=None, target=None):
        return spec_from_loader(name, self, origin=str(self.path)) if name == self.module else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__file__ = str(self.path)
        exec(self.code, module.__dict__)
