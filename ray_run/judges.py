"""Actors of Ray that hold a run's learned rewards and score its images, which come through Ray's store."""

from __future__ import annotations

import runpy
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

LISTEN = 0.2  # seconds


def started(ray, count: int, each: dict[str, Any], arguments: list[str], pack: Path) -> dict[str, Any]:
    """Actors by name, once each has said that it is there. Ray starts one that has died again. each: ``samplers.options``."""
    kind = ray.remote(**each, max_restarts=-1)(Judge)
    found = {f"judge {number}": kind.remote(str(pack), arguments, number) for number in range(count)}
    ray.get([judge.ready.remote() for judge in found.values()])
    return found


def ways(judges: dict[str, Any]) -> dict[str, Callable]:
    """How this process asks each of them."""
    return {name: Way(judge) for name, judge in judges.items()}


class Judge:
    """An actor with a ComfyUI that only scores."""

    def __init__(self, pack: str, arguments: list[str], number: int):
        self._own, self._number = Path(tempfile.mkdtemp(prefix="posttrain-judge-")), number
        self._streams = sys.stdout, sys.stderr  # ComfyUI puts others in their place, which end with these
        sys.argv[0] = str(Path(pack) / "headless.py")
        self._judging = runpy.run_path(sys.argv[0])["judge"](arguments, self._own)

    def ready(self) -> None:
        print(f"PostTrain: judge {self._number} is ready", file=sys.stderr, flush=True)

    def answer(self, job: tuple) -> tuple:
        return self._judging.answer(job)

    def close(self) -> None:
        shutil.rmtree(self._own, ignore_errors=True)


class Way:
    """How this process asks a judge. -> its answer; OSError where it does not answer, or nobody waits any more."""

    def __init__(self, judge):
        self._judge = judge

    def __call__(self, job: tuple, stopped: Callable[[], bool]) -> tuple:
        import ray

        there = threading.Event()
        try:
            answer = self._judge.answer.remote(ray.put(job)).future()
            answer.add_done_callback(lambda _: there.set())
            while not there.wait(LISTEN):
                if stopped():
                    raise OSError("nobody waits for it any more")
            return answer.result()
        except ray.exceptions.RayError as error:
            raise OSError(f"{type(error).__name__} of Ray: {error}") from error
