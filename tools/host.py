"""A real ComfyUI server as an object: boot, submit workflows, listen, cancel, stop.

Used by the tests and by develop.py's demo, prove and serve. Runs inside the development environment.
"""
from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable

import psutil
import requests
import websocket

ROOT = Path(__file__).resolve().parent.parent
PACK = "ComfyUI-PostTrain"  # folder name under custom_nodes, and so the pack's address on the page
FOLDERS = ("custom_nodes", "input", "models/loras", "output", "temp", "user/default")
# A first visit opens a dialog over the whole page.
SETTINGS = {"Comfy.TutorialCompleted": True}

Message = dict[str, Any]


class HostError(RuntimeError):
    """The server did not start, or died; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Result:
    """What became of one submitted workflow."""

    event: str  # "success", "error", "interrupted", "rejected" (by the validation) or "timeout"
    prompt_id: str = ""
    error: dict = field(default_factory=dict)  # node_id, node_type, exception_message ... or the validation's answer
    outputs: dict[str, dict] = field(default_factory=dict)  # node id -> what the node shows, from the history
    counts: dict[str, int] = field(default_factory=dict)  # websocket messages by type; binary ones as "binary"
    bytes: int = 0  # of the text messages
    seconds: float = 0.0
    cancel_seconds: float | None = None  # from Cancel to the end of the run
    rss_before: float = 0.0  # memory of the server in MB, see Host.rss
    rss_after: float = 0.0
    rss_peak: float = 0.0
    messages: list[tuple[float, Message]] = field(default_factory=list)  # (seconds, message), where asked for

    @property
    def text(self) -> str:
        """The error in words, validation errors of all nodes included."""
        found = [self.error.get("exception_message", ""), self.error.get("error", {})]
        found += [e for node in self.error.get("node_errors", {}).values() for e in node["errors"]]
        return "\n".join(f"{e.get('message', '')} {e.get('details', '')}" if isinstance(e, dict) else e for e in found)


class Host:
    """A running server. Use as a context manager, or call stop()."""

    def __init__(self, base: Path, *arguments: str, comfyui: Path | None = None, port: int | None = None,
                 packs: Iterable[Path] = (), cpu: bool = True, boot_seconds: float = 300, name: str = PACK,
                 pack: Path | None = ROOT) -> None:
        """Boots ComfyUI with ``base`` as its base directory, the pack (as ``name``; None: as it is there) and other ``packs``
        linked in."""
        comfyui = comfyui or comfyui_folder()
        self.base, self.port = Path(base), port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        prepare_base(self.base, packs, name, pack)
        self.log = self.base / f"server-{self.port}.log"
        command = [sys.executable, "main.py", "--listen", "127.0.0.1", "--port", str(self.port), "--base-directory",
                   str(self.base), "--database-url", "sqlite:///:memory:", *(["--cpu"] if cpu else []),
                   *arguments]
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL)
        atexit.register(self.stop)
        self._wait_until_up(started + boot_seconds)
        self.boot_seconds = time.monotonic() - started
        self.status = psutil.Process(self.process.pid)

    def _wait_until_up(self, deadline: float) -> None:
        while True:
            try:
                if requests.get(self.url + "/system_stats", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise HostError(f"ComfyUI did not start (exit code {self.process.returncode}).\n{self.log_tail()}")
            time.sleep(0.2)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, seconds: float = 20) -> None:
        """Asks the server to end, and ends it after ``seconds``."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Ends the server at once, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def rss(self) -> float:
        """Memory in MB, resident or swapped out."""
        return (self.status.memory_info().rss + swapped(self.process.pid)) / 1e6

    def get(self, path: str, **parameters: Any) -> requests.Response:
        return requests.get(self.url + path, params=parameters, timeout=60)

    def post(self, path: str, body: Any = None) -> requests.Response:
        return requests.post(self.url + path, json={} if body is None else body, timeout=60)

    def object_info(self) -> dict[str, dict]:
        """Every node that the server offers: inputs, outputs, texts."""
        return self.get("/object_info").json()

    def cancel(self) -> None:
        self.post("/interrupt")

    def run(self, prompt: dict, *, timeout: float = 600, cancel_when: Callable[[Message], bool] | None = None,
            on_message: Callable[[Message], None] | None = None, keep: bool = False, client: bool = True) -> Result:
        """Submits a workflow in API format and waits for its end.

        ``cancel_when`` sees each message of the server and presses Cancel once when it answers True; ``on_message``
        just sees them; ``keep`` stores them in the result. ``client=False`` submits it as a script would, without a
        client id. Raises HostError when the server dies.
        """
        client_id = uuid.uuid4().hex
        listener = websocket.create_connection(f"{self.url.replace('http', 'ws')}/ws?clientId={client_id}", timeout=60)
        listener.settimeout(1)  # from here on: how often the deadline is looked at
        try:
            answer = self.post("/prompt", {"prompt": prompt, **({"client_id": client_id} if client else {})}).json()
            if "prompt_id" not in answer:
                return Result("rejected", error=answer)
            watch = _Watch(self, answer["prompt_id"], time.monotonic() + timeout, cancel_when, on_message, keep)
            watch.listen(listener, told=client)
        finally:
            listener.close()
        return watch.result()

    def history(self, prompt_id: str) -> dict:
        """The history entry of a finished workflow; it is written just after the closing message."""
        for _ in range(50):
            if entry := self.get(f"/history/{prompt_id}").json().get(prompt_id):
                return entry
            time.sleep(0.1)
        return {}


class _Watch:
    """Follows one workflow over the websocket."""

    ENDS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}

    def __init__(self, host: Host, prompt_id: str, deadline: float, cancel_when, on_message, keep: bool) -> None:
        self.host, self.prompt_id, self.deadline = host, prompt_id, deadline
        self.cancel_when, self.on_message, self.keep = cancel_when, on_message, keep
        self.event, self.error, self.counts, self.bytes = "timeout", {}, {}, 0
        self.messages: list[tuple[float, Message]] = []
        self.cancelled: float | None = None
        self.rss_before = self.rss_peak = host.rss()
        self.started = self.measured = self.ended = time.monotonic()

    def listen(self, listener: websocket.WebSocket, told: bool) -> None:
        """Until the end of the run, which the server tells only to the client that submitted it (``told``)."""
        while self.event == "timeout" and time.monotonic() < self.deadline:
            try:
                raw = listener.recv()
            except websocket.WebSocketTimeoutException:
                raw = None
            except (websocket.WebSocketException, OSError):
                self.host.process.wait(10)
                raw = None
            if self.host.process.poll() is not None:
                raise HostError(f"ComfyUI died in the middle of a workflow.\n{self.host.log_tail()}")
            self.measure(look=not told)
            if isinstance(raw, bytes):
                self.count("binary")
            elif raw:
                self.bytes += len(raw)
                self.take(json.loads(raw))
        self.ended = time.monotonic()

    def take(self, message: Message) -> None:
        self.count(message["type"])
        if self.keep:
            self.messages.append((time.monotonic() - self.started, message))
        if self.on_message:
            self.on_message(message)
        if self.cancel_when and self.cancelled is None and self.cancel_when(message):
            self.cancelled = time.monotonic()
            self.host.cancel()
        if message["type"] in self.ENDS and message["data"]["prompt_id"] == self.prompt_id:
            self.event = self.ENDS[message["type"]]
            self.error = message["data"] if self.event != "success" else {}

    def count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def measure(self, look: bool) -> None:
        if time.monotonic() - self.measured > 0.2:
            self.measured = time.monotonic()
            self.rss_peak = max(self.rss_peak, self.host.rss())
            if look and (entry := self.host.get(f"/history/{self.prompt_id}").json().get(self.prompt_id)):
                for kind, data in entry["status"]["messages"]:
                    if kind in self.ENDS:
                        self.take({"type": kind, "data": data})

    def result(self) -> Result:
        outputs = {} if self.event == "timeout" else self.host.history(self.prompt_id).get("outputs", {})
        after = self.host.rss()
        return Result(self.event, self.prompt_id, self.error, outputs, self.counts, self.bytes,
                      self.ended - self.started, self.ended - self.cancelled if self.cancelled else None,
                      self.rss_before, after, max(self.rss_peak, after), self.messages)


def comfyui_folder() -> Path:
    """The ComfyUI that develop.py prepared, from COMFYUI_DIR."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder or not (Path(folder) / "main.py").is_file():
        raise HostError("COMFYUI_DIR does not name a ComfyUI. Run this through `python develop.py`, which prepares one.")
    return Path(folder)


def prepare_base(base: Path, packs: Iterable[Path] = (), name: str = PACK, pack: Path | None = ROOT) -> None:
    """Makes a ComfyUI base directory with the pack in it, ready for a browser; keeps what is there."""
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    if pack is not None:
        link(pack, base / "custom_nodes" / name)
    for other in packs:
        link(other, base / "custom_nodes" / other.name)
    settings = base / "user" / "default" / "comfy.settings.json"
    present = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    settings.write_text(json.dumps(SETTINGS | present, indent=1), encoding="utf-8")


def link(source: Path, place: Path) -> None:
    """Makes ``place`` show ``source``: a symbolic link, a junction where Windows refuses links, or else a copy."""
    if place.is_symlink() or (place.exists() and place.resolve() != place.absolute()):
        if place.resolve() == source.resolve():
            return
        place.unlink() if place.is_symlink() else place.rmdir()
    elif place.exists():
        shutil.rmtree(place)  # a copy made by an earlier start
    try:
        place.symlink_to(source, target_is_directory=True)
        return
    except OSError:
        if os.name != "nt":
            raise
    if subprocess.run(["cmd", "/c", "mklink", "/J", str(place), str(source)], capture_output=True).returncode != 0:
        shutil.copytree(source, place, ignore=shutil.ignore_patterns(".git", "__pycache__"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def swapped(pid: int) -> int:
    """Bytes of a process that are in swap space; 0 where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmSwap:"))
