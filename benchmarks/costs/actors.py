"""What it costs to deal out work to hundreds of actors of Ray: they draw nothing and take the time that a rollout took here."""

from __future__ import annotations

import heapq
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from . import Measure

SAMPLERS = 256  # that draw
A_CORE, A_PROCESS = 16, 60e6  # actors of Ray for each core; bytes of one: more would starve each other
EACH, ITERATIONS = 4, 3  # tasks of a sampler
AT_ONCE = 8  # actors that start
CALLS = 2  # that a sampler answers at once
SECONDS = 60.0  # of a task: four images of 20 steps, .75 s an evaluation
IMAGES = 4  # of a task
TIMED = 64  # rollouts
# two cores stand for a cluster: actors wake as seldom as Ray lets them, are served like any other process, and end where the
# machine runs out of memory
QUIET = {
    "RAY_metrics_report_interval_ms": "600000",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_worker_niceness": "0",
    "RAY_memory_usage_threshold": "0.93",
}


def measure() -> list[Measure]:
    actors, tasks = served(os.cpu_count() or 1, free_bytes()), EACH * SAMPLERS
    found = replayed(SAMPLERS, actors, tasks, SECONDS, ITERATIONS)
    each = ", ".join(f"{100 * share:.2f} %" for share in found["overhead"])
    who = f"{SAMPLERS} samplers in {actors} actors"
    return [
        Measure(
            f"{who}, time beyond the work",
            100 * max(found["overhead"]),
            "%",
            2,
            f"of an iteration of {max(found['ideal']):.0f} s with {tasks} tasks; in {ITERATIONS} iterations {each}",
        ),
        Measure(f"{who}, processor time of the driver", 1000 * found["processor"], "ms", None, "a task"),
        Measure(
            f"{who}, memory that an iteration leaves in the driver",
            found["grown"],
            "MB",
            2,
            f"from the second to the last; {found['memory']:.0f} MB at the end",
        ),
    ]


def free_bytes() -> int:
    import psutil

    return psutil.virtual_memory().available


def served(cores: int, free: float) -> int:
    """As many actors as a machine has processors and room for, half of it for others."""
    return max(1, int(min(SAMPLERS, A_CORE * cores, free / 2 // A_PROCESS)))


def replayed(samplers: int, actors: int, tasks: int, seconds: float, iterations: int) -> dict[str, Any]:
    """Samplers in so many actors of Ray; seconds: of a task, on average. -> of each iteration, overhead: wall time beside that of
    the same work without anybody who deals it out; ideal: that. processor: seconds a task; memory, grown: MB of the driver, and
    what an iteration adds."""
    import psutil

    from tools import pack

    from ._world import world

    made = world(prompts_per_iteration=tasks, images_per_prompt=IMAGES, transition="deterministic", noise_level=0.0)
    times, drawing = rollout_times(made, seconds), drawings(made, tasks)
    ideal, overhead, memory, this = [], [], [], psutil.Process()
    with _ray() as ray:
        lent = started(ray, samplers, actors, times, latents())
        pack.module("trainers.servers.actors").lend(lent)
        before = time.process_time()
        for iteration in range(iterations):
            drawn = drawing(list(lent), iteration)
            ideal.append(ideal_seconds(samplers, [times[int(number) % len(times)] for number in drawn.samples.index[::IMAGES]]))
            begun = time.perf_counter()
            lost = drawn.drawn(lambda: None, lambda *_: None).lost
            overhead.append((time.perf_counter() - begun) / ideal[-1] - 1)
            memory.append(this.memory_info().rss / 1e6)
            if lost:
                raise RuntimeError(f"{len(lost)} samplers were lost: {lost[0]}")
        processor = (time.process_time() - before) / tasks / iterations
    grown = (memory[-1] - memory[1]) / max(iterations - 2, 1)
    return {"overhead": overhead, "ideal": ideal, "processor": processor, "memory": memory[-1], "grown": grown}


def ideal_seconds(samplers: int, times: list[float]) -> float:
    """Until the last task is done where whoever is free takes the next one, in their order."""
    free = [0.0] * samplers
    for seconds in times:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def rollout_times(made, mean: float) -> list[float]:
    """Processor time of one rollout after the other, of each the quicker of two tries, stretched to a mean: other work on this
    machine is not in it."""
    from dataclasses import replace

    from tools import pack

    rollout = pack.module("trainers.sampling.rollout").rollout
    few = replace(made.sampling, prompts_per_iteration=1, batch_size=IMAGES)

    def taken(iteration: int) -> float:
        begun = time.thread_time()
        rollout(made.policy, made.prompts, made.vae, few, iteration)
        return time.thread_time() - begun

    found = [min(taken(iteration), taken(iteration)) for iteration in range(TIMED)]
    return [mean * len(found) * each / sum(found) for each in found]


def drawings(made, tasks: int):
    """(addresses, iteration) -> the drawing of that iteration's images, a prompt to a task."""
    from dataclasses import replace

    from tools import pack

    servers, graph = pack.module("trainers.servers.computers"), pack.module("trainers.servers.graph")
    draw = pack.module("trainers.servers.drawing")
    texts = pack.module("trainers.prompts").Texts("")
    numbered = tuple(pack.module("rewards.base.prompt").Prompt(str(number)) for number in range(tasks))
    prompts = replace(made.prompts, prompts=numbered, positive=(made.prompts.positive[0],) * tasks, texts=texts)
    source = graph.Source({}, ("1", 0), ("1", 1))

    def drawing(addresses: list[str], iteration: int):
        computers = servers.Computers(tuple(addresses), made.policy.model, source)
        return draw.Drawing(made.policy, made.policy.bank, prompts, made.sampling, computers, (3, 24, 24), iteration)

    return drawing


def latents() -> bytes:
    """Of a task, as SaveLatent writes them."""
    import safetensors.torch
    import torch

    return safetensors.torch.save(
        {"latent_tensor": torch.zeros(IMAGES, 3, 24, 24), "latent_format_version_0": torch.tensor([])}
    )


@contextmanager
def _ray() -> Iterator[Any]:
    """A Ray of this machine whose processes do without pyarrow, which Ray imports where it finds it: 10 MB less of each."""
    import ray

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text('import sys\n\nsys.modules["pyarrow"] = None\n', encoding="utf-8")
        paths = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
        os.environ |= QUIET | {"PYTHONPATH": paths}
        ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
        try:
            yield ray
        finally:
            ray.shutdown()


def started(ray, samplers: int, actors: int, times: list[float], content: bytes) -> dict[str, Any]:
    """Ways to samplers that are there, by name. Each is asked by itself; that some share an actor spares this machine processes
    of Ray that would be on others."""
    from tools import pack

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    each = -(-samplers // actors)
    kind = ray.remote(num_cpus=0, max_concurrency=CALLS * each)(Replayers)
    made: list[Any] = []
    for first in range(0, actors, AT_ONCE):  # all at once they would starve each other
        wave = [kind.remote(each, times, content) for _ in range(first, min(first + AT_ONCE, actors))]
        ray.get([actor.ask.remote(0, "/features", None, "", 1.0) for actor in wave])
        made += wave
    return pack.module("ray_run.samplers").ways(
        {f"ray {number}": seat(made[number % actors], number // actors) for number in range(samplers)}
    )


def seat(actor, number: int) -> SimpleNamespace:
    """One sampler of an actor, called as if it were one."""
    calls = {name: partial(getattr(actor, name).remote, number) for name in ("ask", "finished")}
    return SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})


class Replayers:
    """Samplers of one process."""

    def __init__(self, count: int, times: list[float], content: bytes):
        self._all = [Replayer(times, content) for _ in range(count)]

    def ask(self, number: int, *asked) -> tuple[int, bytes]:
        return self._all[number].ask(*asked)

    def finished(self, number: int, *asked) -> tuple[int, bytes]:
        return self._all[number].finished(*asked)


class Replayer:
    """Answers as a ComfyUI whose graphs draw nothing and take a time, by the number that is their prompt."""

    def __init__(self, times: list[float], content: bytes):
        self._times, self._content, self._files = times, content, []
        self._ends: dict[str, float] = {}

    def ask(self, route: str, body: bytes | None, kind: str, seconds: float) -> tuple[int, bytes]:
        name = route.partition("?")[0]
        if name == "/view":
            return 200, self._content
        return 200, json.dumps(self._said(name, body)).encode()

    def _said(self, name: str, body: bytes | None) -> Any:
        if name == "/prompt":
            return {"prompt_id": self._begun(int(json.loads(body)["prompt"]["posttrain positive"]["inputs"]["text"]))}
        if name == "/upload/image":
            self._files.append(re.search(rb'filename="([^"]+)"', body)[1].decode())
            return {"name": self._files[-1]}
        if name == "/queue":  # asked of a task that takes long
            return {"queue_running": [[0, job] for job in self._ends], "queue_pending": []}
        return self._files if name == "/models/loras" else {}

    def _begun(self, number: int) -> str:
        self._ends[str(number)] = time.monotonic() + self._times[number % len(self._times)]
        return str(number)

    def finished(self, route: str, seconds: float) -> tuple[int, bytes]:
        job = route.rpartition("/")[2]
        left = self._ends[job] - time.monotonic()
        time.sleep(max(0.0, min(left, seconds)))
        if left > seconds:
            return 200, b"{}"
        place = {"filename": f"{job}.latent", "subfolder": ""}
        entry = {"status": {"status_str": "success"}, "outputs": {"posttrain saved": {"latents": [place]}}}
        return 200, json.dumps({job: entry}).encode()
