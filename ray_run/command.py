"""The same run under Ray: Ray Train starts the processes, on any machines of a cluster, and all again where one has died.

    python headless.py ray workflow_api.json --workers 4 --address auto      on a cluster that runs
    python headless.py ray workflow_api.json --workers 2                     on this machine alone
    python headless.py ray workflow_api.json --samplers 8 --address auto     one trains, eight sample for it
    python headless.py ray workflow_api.json --judges 2 --address auto       one trains, two score with its learned rewards
    python headless.py ray workflow_api.json --workers 2 --lowvram           ComfyUI's own options, and those of headless.py

The workflow, this pack and ComfyUI lie at the same place on each machine, and Ray was started there from ComfyUI's Python. Each
process is told its rank and is otherwise that of any launcher. Exit codes are those of headless.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import demand, judges, samplers, storage

ERROR, WRONG = 1, 2
LOOK = 0.5  # seconds between looks
NOTES = "ray"  # the folder of Ray's own notes in a storage
TAKEN_ALONG = ("POSTTRAIN_PAGE_KEY",)  # variables of the command that the processes get, wherever they are
PATIENCE = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}  # Ray's own minute is too short for a busy machine
LACKING = (
    "the Python package 'ray' is needed, with its part 'train'; install it into ComfyUI's Python on each machine (the pack's "
    'group "ray", see README.md), or start the processes with torchrun'
)


def main(arguments: list[str], pack: Path, check: Callable[[list[str]], Any]) -> int:
    """check: ends with words where what is passed on is wrong."""
    words = argparse.ArgumentParser(
        prog="headless.py ray", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    words.add_argument("workflow", type=Path, help="a workflow in API format (.json)")
    words.add_argument("--workers", type=int, default=1, help="how many processes share the training, a card each")
    words.add_argument("--address", help="of a cluster that runs: auto, or HOST:PORT; else Ray starts on this machine")
    words.add_argument("--samplers", type=int, default=0, help="how many more only sample, for Rollout on Other Computers: ray")
    words.add_argument("--judges", type=int, default=0, help="how many more hold the workflow's learned rewards and score")
    words.add_argument("--cpus", type=float, default=1.0, help="that each process asks Ray for; less than 1 shares one")
    words.add_argument(
        "--memory", type=float, help="GB that each process asks Ray for; else as many as its model files have, and one"
    )
    words.add_argument(
        "--card",
        type=float,
        help="GB that each process' card must have; else cards that hold the largest model file come first",
    )
    words.add_argument("--restarts", type=int, default=3, help="how often all are started again where one has died")
    words.add_argument(
        "--storage",
        help="of this training alone: a folder, or an address such as s3://bucket/folder, that all "
        "machines reach; its output is kept there, and goes on from there",
    )
    chosen, passed_on = words.parse_known_args(arguments)
    above_zero = [each for each in (chosen.cpus, chosen.memory, chosen.card) if each is not None]
    if chosen.workers < 1 or min(chosen.samplers, chosen.judges, chosen.restarts) < 0 or not min(above_zero) > 0:
        words.error("--workers begins at 1, --samplers, --judges and --restarts at 0, --cpus, --memory and --card above 0")
    if not chosen.workflow.is_file():
        words.error(f"{chosen.workflow} is not there; export a workflow with Export (API)")
    check([str(chosen.workflow), *passed_on])
    try:
        ray = imported()
        chosen.storage = _storage_of(chosen.storage, passed_on)
    except (RuntimeError, ValueError) as error:
        words.error(str(error))
    with _running(ray, chosen.address):
        ray.cloudpickle.register_pickle_by_value(sys.modules[__package__])  # workers need not find these files
        arguments = [str(chosen.workflow.resolve()), *passed_on]
        try:
            asked, where = demand.of(ray, chosen, arguments, pack)
        except ValueError as short:
            words.error(str(short))
        return _train(ray, chosen, asked, where, arguments, pack)


def imported():
    """Ray with its trainer. RuntimeError, in words, without it."""
    try:
        import ray
        import ray.train.torch
    except ImportError as error:
        raise RuntimeError(f"{LACKING} ({error})") from None
    return ray


def _storage_of(given: str | None, passed_on: list[str]) -> str | None:
    """As all processes can name it. ValueError, in words, where there is none."""
    if given is None:
        return None
    if "--output-directory" in passed_on:
        raise ValueError("--storage: the output is kept there, so --output-directory has no use; leave one of the two out")
    where = given if "://" in given else str(Path(given).resolve())
    storage.opened(where)
    return where


@contextlib.contextmanager
def _running(ray, address: str | None):
    """A cluster; of one that this starts nothing is left afterwards."""
    os.environ |= {name: os.environ.get(name, value) for name, value in PATIENCE.items()}
    try:
        here = {} if address else {"include_dashboard": False}
        ray.init(address or "local", **here)
    except ConnectionError as error:
        sys.exit(f"--address: no Ray is at {address} ({error}). Start one with ray start --head, or leave --address out")
    try:
        yield
    finally:
        ray.shutdown()


def _train(ray, chosen, asked: dict[str, float], where: demand.Selector | None, arguments: list[str], pack: Path) -> int:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    desk = ray.remote(num_cpus=0)(Desk).remote()
    each = samplers.options(asked, where)
    lent = samplers.started(ray, chosen.samplers, each, arguments, pack)
    scoring = judges.started(ray, chosen.judges, each, arguments, pack)
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "arguments": arguments,
            "pack": str(pack),
            "desk": desk,
            "samplers": lent,
            "ways": samplers.ways,
            "judges": scoring,
            "ways_to_judges": judges.ways,
            "storage": chosen.storage,
            "command": uuid.uuid4().hex,
            "output": storage.output,
            "environment": {name: os.environ[name] for name in TAKEN_ALONG if name in os.environ},
        },
        torch_config=_place(),
        scaling_config=ScalingConfig(
            num_workers=chosen.workers, use_gpu="GPU" in asked, resources_per_worker=asked, label_selector=where
        ),
        run_config=RunConfig(
            storage_path=storage.below(chosen.storage, NOTES) if chosen.storage else None,
            failure_config=FailureConfig(max_failures=chosen.restarts),
        ),
    )
    try:
        return _until_done(ray, trainer, desk)
    finally:
        samplers.close(ray, lent | scoring)


def _until_done(ray, trainer, desk) -> int:
    """Waits, and hands a first Ctrl-C to the processes, which save and end; a second one ends all at once."""
    ended: list[int] = []
    waiting = threading.Thread(target=lambda: ended.append(_code(trainer)), daemon=True)
    pressed: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: pressed.append(number))
    waiting.start()
    told = False
    while waiting.is_alive() and len(pressed) < 2:
        waiting.join(LOOK)
        if pressed and not told:
            told = True
            print("Cancelled: the training saves its state and ends. Once more ends it at once.", file=sys.stderr)
            ray.get(desk.cancel.remote())
    return ended[0] if ended else 128 + pressed[-1]


def _code(trainer) -> int:
    """The exit code of the first rank."""
    try:
        code = trainer.fit().return_value
        return ERROR if code is None else code
    except Exception as error:
        print(f"Ray could not go on: {error}", file=sys.stderr)
        return ERROR


class Desk:
    """An actor that the processes ask: whether they are started once more, and whether the user has cancelled."""

    def __init__(self):
        self._starts, self._cancelled = 0, False

    def start(self) -> bool:
        self._starts += 1
        return self._starts > 1

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled


def _place():
    """Tells the processes of each start where the first one is; a card each."""
    from contextlib import nullcontext

    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig

    class Place(Backend):
        def on_start(self, worker_group, backend_config):
            worker_group.execute(_meet_at, *worker_group.execute_single(0, _free_place))

    class OwnGroup(TorchConfig):
        """The processes make their group themselves, as under any launcher."""

        backend_cls, train_func_context = Place, nullcontext

    return OwnGroup(backend="gloo")


def _free_place() -> tuple[str, int]:
    import ray

    with socket.socket() as found:
        found.bind(("", 0))
        return ray.util.get_node_ip_address(), found.getsockname()[1]


def _meet_at(address: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}


def work(settings: dict) -> int:
    """One rank, in the process that Ray has started for it. -> its exit code."""
    import ray
    from ray import train

    context, desk = train.get_context(), settings["desk"]
    rank = context.get_world_rank()
    os.environ |= settings["environment"] | {
        "RANK": str(rank),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
    }
    again = rank == 0 and ray.get(desk.start.remote())
    cancelled = threading.Event()

    def listen() -> None:
        while not ray.get(desk.cancelled.remote()):
            time.sleep(LOOK)
        cancelled.set()

    threading.Thread(target=listen, daemon=True, name="desk").start()
    sys.argv[0] = str(Path(settings["pack"]) / "headless.py")
    headless = runpy.run_path(sys.argv[0])
    lent = {"samplers": settings["ways"](settings["samplers"]), "judges": settings["ways_to_judges"](settings["judges"])}
    with settings["output"](settings, rank, again, cancelled.set, headless["lora_folder"]) as (options, again):
        arguments = [*settings["arguments"], *options]
        return headless["main"](arguments, again=again, stopped=cancelled.is_set, **lent)
