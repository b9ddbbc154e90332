"""What a second process brings: iterations of the demo's Flow-GRPO, alone and shared by two processes of one thread each."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tools.host import free_port

from . import Measure

ITERATIONS = 3


def measure() -> list[Measure]:
    (alone, _), (shared, met) = (_seconds(count) for count in (1, 2))
    detail = f"{alone:.2f} s an iteration alone, {shared:.2f} s shared, {1000 * met:.0f} ms of it in exchanges, waits included"
    return [
        Measure("two processes, speed of one", alone / shared, "x", detail=detail),
        Measure("two processes, time of one half", 2 * shared / alone, "x", 1.11, "1.11 is 1.8 times as fast"),
    ]


def _seconds(count: int) -> tuple[float, float]:
    """(seconds of an iteration, of them in meetings), of the slowest process, the first iteration left out."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (count, free_port(), folder), nprocs=count)
        found = [[float(word) for word in (Path(folder) / str(rank)).read_text().split()] for rank in range(count)]
    return max(each[0] for each in found), max(each[1] for each in found)


def _work(rank: int, count: int, port: int, folder: str) -> None:
    from ._rank import joined

    shared = joined(rank, count, port, prompts_per_iteration=16, images_per_prompt=16, batch_size=32)
    policy, taken, met = shared.world.policy, [], []
    _timed(shared.ranks, met)
    for iteration in range(ITERATIONS + 1):
        met.clear()
        started = time.perf_counter()
        policy = shared.iteration(policy, iteration)
        taken.append((time.perf_counter() - started, sum(met)))
    shared.ranks.leave()
    best = min(taken[1:])
    (Path(folder) / str(rank)).write_text(f"{best[0]} {best[1]}")


def _timed(ranks, met: list[float]) -> None:
    """Writes down how long each exchange takes, those inside of others not again."""
    inside = []

    for name in ("met", "gathered", "add_gradients"):
        inner = getattr(ranks, name)

        def outer(*values, inner=inner):
            started = time.perf_counter()
            inside.append(inner)
            try:
                return inner(*values)
            finally:
                inside.pop()
                if not inside:
                    met.append(time.perf_counter() - started)

        setattr(ranks, name, outer)
