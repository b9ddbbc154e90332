"""What comes into a node of the pack is what its inputs say, however it came there.

The host checks numbers that are typed in, and menus that are lists; what comes by wire, and what other programs send to its
API, it hands on as it is. So every node of the pack checks once more, by its own INPUT_TYPES, before it runs.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real

from ..rewards.base.words import holds_half_characters, shown

NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}
LONGEST = 1_000_000  # characters of a text
HOSTS = {
    "MODEL": "a model",
    "CLIP": "a text encoder",
    "VAE": "a VAE",
    "IMAGE": "images",
    "LATENT": "latents",
    "LORA_MODEL": "a LoRA, as Train LoRA gives it",
}


def guarded(node: type) -> type:
    """The same class, whose function checks its inputs first; ValueError names the input, what came and what may come."""
    run = getattr(node, node.FUNCTION)
    signature = inspect.signature(run)

    def checked(self, args, kwargs):
        given = signature.bind_partial(self, *args, **kwargs).arguments
        given |= given.pop(_keywords(signature), {})
        check(node, {name: value for name, value in given.items() if name != "self"})

    @functools.wraps(run)
    def plain(self, *args, **kwargs):
        checked(self, args, kwargs)
        return run(self, *args, **kwargs)

    @functools.wraps(run)
    async def awaited(self, *args, **kwargs):
        checked(self, args, kwargs)
        return await run(self, *args, **kwargs)

    setattr(node, node.FUNCTION, awaited if inspect.iscoroutinefunction(run) else plain)
    return node


def check(node: type, given: dict) -> None:
    """ValueError where a value is not what the node's INPUT_TYPES say of that input."""
    types = node.INPUT_TYPES()
    for group in ("required", "optional"):
        for name, spec in types.get(group, {}).items():
            if name in given and not (group == "optional" and given[name] is None):
                for value in given[name] if getattr(node, "INPUT_IS_LIST", False) else [given[name]]:
                    _check_one(name, value, *_kind(spec), by_node=_explains(node, name))


def _check_one(name: str, value, kind, options: dict, by_node: bool) -> None:
    if kind in ("INT", "FLOAT"):
        _check_number(name, value, kind, options)
    elif kind == "BOOLEAN":
        if not isinstance(value, (bool, int)):
            raise ValueError(f"{name}: {shown(value)} is not possible; it must be true or false")
    elif kind == "STRING":
        _check_text(name, value)
    elif isinstance(kind, (list, tuple)):
        if not by_node and not (isinstance(value, (str, int, float)) and value in kind):
            raise ValueError(f"{name}: {shown(value)} is none of its choices; choose one of {_listed(kind)}")
    elif value is None and not options.get("lazy"):
        raise ValueError(f"{name}: nothing came by its wire; connect {HOSTS.get(kind, 'the output that it asks for')}")


def _check_number(name: str, value, kind: str, options: dict) -> None:
    low, high = options.get("min", -math.inf), options.get("max", math.inf)
    number = isinstance(value, Real) and (kind == "FLOAT" or isinstance(value, Integral) or float(value).is_integer())
    # comparisons with NaN are false, and whole numbers of any size can be compared
    if not number or not low <= value <= high or value in (math.inf, -math.inf):
        bounded = math.isfinite(low) and math.isfinite(high)
        raise ValueError(
            f"{name}: {shown(value)} is not possible; it must be {NUMBERS[kind]}"
            + (f" from {low:g} to {high:g}" if bounded else "")
        )


def _check_text(name: str, value) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}: a text is needed, but {shown(type(value).__name__)} came")
    if len(value) > LONGEST:
        raise ValueError(f"{name}: {len(value):,} characters are too many; {LONGEST:,} are the most")
    if holds_half_characters(value):
        raise ValueError(f"{name}: '{shown(value)}' holds half of a character, which no file and no log can hold; type it anew")


def _kind(spec: tuple) -> tuple:
    return spec[0], spec[1] if len(spec) > 1 else {}


def _explains(node: type, name: str) -> bool:
    """Whether the node itself says what is wrong with this input: menus of files, whose entries come and go."""
    validate: Callable | None = getattr(node, "VALIDATE_INPUTS", None)
    return validate is not None and name in inspect.signature(validate).parameters


def _keywords(signature: inspect.Signature) -> str | None:
    return next((each.name for each in signature.parameters.values() if each.kind is each.VAR_KEYWORD), None)


def _listed(choices: Iterable) -> str:
    return shown(", ".join(map(str, choices)), 400)
