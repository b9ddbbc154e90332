"""The golden files: numbers that the official codes gave, and which of them have been read in this process."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parent.parent / "golden"
READ: set[str] = set()  # "01a out.loss", "07c cases.kept"


class Golden(dict):
    """Numbers of a golden file; view(prefix) gives those under a prefix, falling back to the file's shared ones."""

    def __init__(self, values: dict, places: dict[str, str]):
        super().__init__(values)
        self.places = places

    def __getitem__(self, key: str):
        READ.add(self.places[key])
        return super().__getitem__(key)

    def view(self, prefix: str) -> Golden:
        own = [key for key in self.places if key.startswith(prefix)]
        values = dict(self.items())
        return Golden(
            values | {key[len(prefix) :]: values[key] for key in own},
            self.places | {key[len(prefix) :]: self.places[key] for key in own},
        )

    def const(self, name: str) -> float:
        return self[f"const.{name}"].item()


def golden_file(start: str) -> Golden | list[Golden]:
    """The one file whose name starts so: 02a. A list of cases if that is what it holds."""
    (path,) = FOLDER.glob(f"{start}*")
    if path.suffix == ".json":
        return recorded(json.loads(path.read_text("utf-8")), f"{start} ")
    values = load_file(path)
    return Golden(values, {key: f"{start} {key}" for key in values})


def recorded(value, place: str):
    """A case is read key by key; what a key of a case holds is read as one."""
    if isinstance(value, list):
        return [Golden(each, {key: place + key for key in each}) for each in value]
    parts = {
        key: recorded(part, f"{place}{key}.") if key != "thresholds" else recorded([part], f"{place}{key}.")[0]
        for key, part in value.items()
    }
    return Golden(parts, {key: place + key for key in value})


def places() -> set[str]:
    """Every number that there is, named as in READ."""
    found = set()
    for path in FOLDER.iterdir():
        stack = [golden_file(path.name.split("_")[0])]
        while stack:
            part = stack.pop()
            for case in part if isinstance(part, list) else [part]:
                inner = [value for value in dict(case.items()).values() if isinstance(value, Golden) or is_cases(value)]
                stack += inner
                found |= {place for key, place in case.places.items() if not any(dict.get(case, key) is one for one in inner)}
    return found


def is_cases(value) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Golden)
