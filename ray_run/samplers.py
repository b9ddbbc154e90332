"""Actors of Ray that hold a ComfyUI and only sample, and how the process that trains asks them.

To whoever asks they are other computers (trainers/servers): the same requests, carried by Ray. What is large, such as a LoRA,
goes into Ray's store once for all of them; latents come back through it.
"""

from __future__ import annotations

import contextlib
import runpy
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGE = 100_000  # bytes that go through the store
REST, GLANCE, LISTEN, LONGEST_CLOSE = 0.5, 0.1, 0.5, 5  # seconds
NOTHING_YET = 200, b"{}"  # what a ComfyUI's history answers


def started(ray, count: int, each: dict[str, Any], arguments: list[str], pack: Path) -> dict[str, Any]:
    """Actors by name, once each has said that it is there. Ray starts one that has died again. each: ``options`` of one."""
    kind = ray.remote(**each, max_restarts=-1, max_concurrency=8)(Sampler)
    found = {f"ray {number}": kind.remote(str(pack), arguments, number) for number in range(count)}
    ray.get([sampler.ready.remote() for sampler in found.values()])
    return found


def options(asked: dict[str, float], where: dict[str, str] | None = None) -> dict[str, Any]:
    """Of an actor that asks for that, on a machine with these labels."""
    placed = {"label_selector": where} if where else {}
    return {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0), "memory": asked.get("memory", 0)} | placed


def close(ray, samplers: dict[str, Any]) -> None:
    for sampler in samplers.values():
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(sampler.close.remote(), timeout=LONGEST_CLOSE)


def ways(samplers: dict[str, Any]) -> dict[str, Callable]:
    """How this process asks each of them."""
    store = Store()
    return {name: Way(sampler, store) for name, sampler in samplers.items()}


class Sampler:
    """An actor with a ComfyUI that only samples; it is asked as its server would be, and Ray carries what is said."""

    def __init__(self, pack: str, arguments: list[str], number: int):
        self._own, self._number = Path(tempfile.mkdtemp(prefix="posttrain-sampler-")), number
        self._streams = sys.stdout, sys.stderr  # ComfyUI puts others in their place, which end with these
        self._port = free_port()
        sys.argv[0] = str(Path(pack) / "headless.py")
        runpy.run_path(sys.argv[0])["serve"](arguments, self._own, self._port)

    def ready(self) -> None:
        while not self._answers():
            time.sleep(REST)
        print(f"PostTrain: sampler {self._number} is ready", file=sys.stderr, flush=True)

    def _answers(self) -> bool:
        try:
            return self.ask("/system_stats", None, "", 10.0)[0] == 200
        except OSError:
            return False

    def ask(self, route: str, body: bytes | None, kind: str, seconds: float) -> tuple[int, bytes]:
        address = f"http://127.0.0.1:{self._port}{route}"
        request = urllib.request.Request(address, body, {"Content-Type": kind} if body is not None else {})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def finished(self, route: str, seconds: float) -> tuple[int, bytes]:
        """What a history's route answers, as soon as that is not empty."""
        end = time.monotonic() + seconds
        while True:
            status, answer = self.ask(route, None, "", 30.0)
            if status != 200 or answer.strip() not in (b"", b"{}") or time.monotonic() > end:
                return status, answer
            time.sleep(GLANCE)

    def close(self) -> None:
        shutil.rmtree(self._own, ignore_errors=True)


class Way:
    """How this process asks a sampler. -> status and answer; OSError where it does not answer."""

    def __init__(self, sampler, store: Store):
        self._sampler, self._store = sampler, store

    def __call__(self, route: str, body: bytes | None, kind: str, seconds: float) -> tuple[int, bytes]:
        import ray

        try:
            said = self._store.put(body) if body is not None and len(body) > LARGE else body
            return ray.get(self._sampler.ask.remote(route, said, kind, seconds), timeout=seconds + REST)
        except ray.exceptions.RayError as error:
            raise OSError(f"{type(error).__name__} of Ray: {error}") from error

    def finished(self, route: str, stopped: Callable[[], bool], seconds: float) -> tuple[int, bytes]:
        """One call, however long it takes: with hundreds of samplers this process would do nothing but ask."""
        import ray

        there = threading.Event()
        answer = self._sampler.finished.remote(route, seconds).future()
        answer.add_done_callback(lambda _: there.set())
        try:
            while not (there.wait(LISTEN) or stopped()):
                pass
            return answer.result() if there.is_set() else NOTHING_YET
        except ray.exceptions.RayError as error:
            raise OSError(f"{type(error).__name__} of Ray: {error}") from error


class Store:
    """Keeps in Ray's store what went there last."""

    def __init__(self):
        self._lock, self._body, self._there = threading.Lock(), b"", None

    def put(self, body: bytes):
        import ray

        with self._lock:
            if body != self._body:
                self._body, self._there = body, ray.put(body)
            return self._there


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
