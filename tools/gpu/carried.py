"""What a machine without network lacks, in a folder: the pinned host and the packages that it imports, each as a zip file.

Which packages: those that an iteration of every trainer imports beside what torch and transformers bring themselves
(tests/unit/tools/test_gpu.py runs one with no others), and pytest. Taken there are only those that the machine lacks.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from ..environment import REQUIREMENTS, TORCHVISION, Environment, SetupError, Step

LIMIT = 64_000_000  # bytes of the folder
# what is imported, by the package that brings it
PACKAGES = {"pillow": "PIL", "einops": "einops", "psutil": "psutil", "scipy": "scipy", "torchsde": "torchsde",
            "trampoline": "trampoline", "torchvision": "torchvision", "pytest": "_pytest", "pluggy": "pluggy",
            "iniconfig": "iniconfig", "requests": "requests", "urllib3": "urllib3", "certifi": "certifi", "idna": "idna",
            "charset-normalizer": "charset_normalizer"}  # fmt: skip
PURE_TORCHVISION = TORCHVISION[-1]  # without its compiled operators it loads beside any torch
NOT_HOST = {"tests", "tests-unit", "models", "web", "input", "output", "temp", "user", "custom_nodes",
            "script_examples"}  # fmt: skip
SYSTEMS = [f"manylinux_2_{number}_x86_64" for number in (28, 27, 17)] + ["manylinux2014_x86_64"]
HOST, FOLDER = "host.zip", "packages"


def pack(env: Environment, folder: Path, python: str, there: Iterable[str] = ()) -> int:
    """Fills ``folder``, which must not exist; its bytes. python: "3.12", of the other machine; there: packages that it has."""
    there = set(there)
    if unknown := there - PACKAGES.keys():
        raise SetupError(f"--has: {', '.join(sorted(unknown))} is not carried; that could be {', '.join(PACKAGES)}.")
    if folder.exists():
        raise SetupError(f"--pack: {folder} exists already; name a new folder.")
    with tempfile.TemporaryDirectory() as temporary:
        part = Path(temporary, "part")
        (part / FOLDER).mkdir(parents=True)
        pack_host(env.host, part / HOST)
        for wheel in downloaded(env, Path(temporary, "wheels"), python, [name for name in PACKAGES if name not in there]):
            lean(wheel, part / FOLDER / f"{wheel.stem}.zip")
        size = held_to(LIMIT, part)
        shutil.copytree(part, folder)
    return size


def pack_host(host: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(host.rglob("*")):
            inside = path.relative_to(host)
            if path.is_file() and inside.parts[0] not in NOT_HOST and "__pycache__" not in inside.parts:
                made.write(path, inside)


def downloaded(env: Environment, folder: Path, python: str, names: Iterable[str]) -> list[Path]:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE))
    step = Step(env, f"packages for Python {python} on Linux, x86-64", again=False)
    for name in names:
        pin, wanted = (PURE_TORCHVISION, "3.11") if name == "torchvision" else (f"{name}=={pinned[name]}", python)
        systems = [word for system in SYSTEMS for word in ("--platform", system)]
        step.pip("download", "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", wanted, *systems,
                 "--dest", str(folder), pin)  # fmt: skip
    step.finish()
    return sorted(folder.glob("*.whl"))


def lean(wheel: Path, archive: Path) -> None:
    """The wheel without tests, and torchvision's without what is compiled for one release of torch."""
    compiled = (".so", ".dll") if wheel.name.startswith("torchvision") else ()
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        for name in whole.namelist():
            parts = name.split("/")
            if "tests" not in parts and not (compiled and (".so" in name or parts[0].endswith(".libs"))):
                made.writestr(name, whole.read(name))


def held_to(limit: int, folder: Path) -> int:
    """The folder's bytes; SetupError where they are too many."""
    sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    total, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name])
    if total > limit:
        raise SetupError(f"--pack: that is {total / 1e6:.0f} MB, and {limit / 1e6:.0f} MB may travel; the largest is {largest}. Name "
                         "with --has what the other machine has already.")  # fmt: skip
    return total


def laid_out(folder: Path, place: Path) -> tuple[Path, Path]:
    """(host, packages): what ``folder`` carries, unpacked to ``place``; of the packages those that this Python lacks."""
    if not (folder / HOST).is_file():
        raise SetupError(f"--from: {folder} was not made by --pack (it has no {HOST}).")
    if lacking := [name for name in ("torch", "transformers") if not has(name)]:
        raise SetupError(f"--from: {sys.executable} has no {' and no '.join(lacking)}; run this with a Python that has both.")
    with zipfile.ZipFile(folder / HOST) as archive:
        archive.extractall(place / "host")
    archives = {path.name.split("-")[0].lower().replace("_", "-"): path for path in (folder / FOLDER).glob("*.zip")}
    for name, imported in PACKAGES.items():
        if has(imported):
            continue
        if name not in archives:
            raise SetupError(f"--from: {name} is neither in {folder} nor here; make the folder again without --has {name}.")
        fits(archives[name].stem, sys.version_info[:2])
        with zipfile.ZipFile(archives[name]) as archive:
            archive.extractall(place / FOLDER)
    (place / FOLDER).mkdir(exist_ok=True)
    return place / "host", place / FOLDER


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def fits(wheel: str, python: tuple[int, int]) -> None:
    """SetupError where a wheel of this name is for another Python."""
    tag, abi = wheel.split("-")[2:4]
    here = f"{python[0]}{python[1]}"
    if not (abi in ("none", "abi3") or abi == f"cp{here}" or wheel.startswith("torchvision")):
        made = re.sub(r"cp(\d)(\d+)", r"\1.\2", tag)
        raise SetupError(f"--from: {wheel.split('-')[0]} was packed for Python {made}, and this is {python[0]}.{python[1]}; make the "
                         f"folder again with --for-python {python[0]}.{python[1]}.")  # fmt: skip
