"""Training runs through a real ComfyUI: a shipped workflow, changed here and there, submitted and watched."""
from __future__ import annotations

import copy
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from .host import ROOT, Host, HostError, Message, Result

WORKFLOWS = ROOT / "workflows" / "api"
EDITS = "edits"  # in the place of a model of Demo World: that of Demo Edits


@dataclass(frozen=True)
class Training:
    """A finished run: what it was, and its iterations as the server told them."""

    which_model: str  # of Demo World, or EDITS
    lora: str  # its name, as LoraLoader lists it; of several that were saved, the last in the graph
    lora_path: Path
    seconds: float
    iterations: list[dict] = field(default_factory=list)  # data of the posttrain.iteration events
    earlier: tuple[str, ...] = ()  # the LoRAs saved before it


def load_workflow(source: str | dict, changes: dict[str, object] | None = None) -> dict:
    """workflows/api/<source>.json (or a graph itself) with ``changes``: {"PTSampling.seed": 3} sets that input on every
    node of that type."""
    if isinstance(source, str):
        source = json.loads((WORKFLOWS / f"{source}.json").read_text(encoding="utf-8"))
    graph = copy.deepcopy(source)
    for place, value in (changes or {}).items():
        kind, key = place.split(".")
        nodes = [node for node in graph.values() if node["class_type"] == kind]
        if not nodes:
            raise ValueError(f"the workflow has no node of type {kind}, so {place} cannot be set")
        for node in nodes:
            node["inputs"][key] = value
    return graph


def producer(graph: dict, kind: str, key: str) -> str:
    """The id of the node that feeds an input of the only node of a type."""
    return the(graph, kind, key)[0]


def the(graph: dict, kind: str, key: str) -> Any:
    """The value of an input of the only node of a type."""
    found = every(graph, kind, key)
    if len(found) != 1:
        raise ValueError(f"expected one {kind} in the workflow, found {len(found)}")
    return found[0]


def every(graph: dict, kind: str, key: str) -> list:
    """The values of an input of the nodes of a type, in the graph's order."""
    return [node["inputs"][key] for node in graph.values() if node["class_type"] == kind]


def only(graph: dict, kind: str) -> str:
    """The id of the only node of a type."""
    found = [name for name, content in graph.items() if content["class_type"] == kind]
    if len(found) != 1:
        raise ValueError(f"expected one {kind} in the workflow, found {len(found)}")
    return found[0]


def finished(host: Host, graph: dict, what: str, **settings: object) -> Result:
    """What came of a workflow that ran to its end; HostError, with ``what`` it was, where it did not. settings: Host.run's."""
    result = host.run(with_defaults(graph, host.object_info()), **settings)
    if result.event != "success":
        raise HostError(f"the {what} ended with {result.event}: {result.text}\n{host.log_tail(15)}")
    return result


def with_defaults(graph: dict, offered: dict[str, dict]) -> dict:
    """The graph with every required input that it leaves open at its default; offered: the server's object_info."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        for key, (kind, *options) in offered[node["class_type"]]["input"].get("required", {}).items():
            if key not in node["inputs"]:  # of a menu without entries there is none, and none is asked for
                default = kind[0] if isinstance(kind, list) else None
                node["inputs"][key] = (options[0] if options else {}).get("default", default)
    return graph


def train(host: Host, graph: dict, watch: Callable[[Message], None] | None = None, timeout: float = 6 * 3600) -> Training:
    """Runs a training workflow to its end. HostError, with the reason, when it does not reach it."""
    iterations: list[dict] = []

    def on_message(message: Message) -> None:
        if message["type"] == "posttrain.iteration":
            iterations.append(message["data"])
        if watch:
            watch(message)

    result = finished(host, graph, "training", on_message=on_message, timeout=timeout)
    *earlier, lora = (f"{name}.safetensors" for name in every(graph, "PTSaveLora", "file_name"))
    path = host.base / "models" / "loras" / lora
    if not path.is_file():
        raise HostError(f"the training ended, but there is no LoRA at {path}")
    worlds = every(graph, "PTDemoWorld", "which_model")
    return Training(worlds[0] if worlds else EDITS, lora, path, result.seconds, iterations,
                    tuple(earlier))


class Progress:
    """Shows a training in the terminal: one line that changes, or a line now and then where the output is no terminal."""

    def __init__(self, every: float = 10.0, label: str = "") -> None:
        """every: seconds between lines. label: whose lines they are, where several trainings run at once."""
        self.every, self.said, self.label = every, 0.0, label
        self.tty = sys.stdout.isatty() and not label
        self.first: float | None = None

    def __call__(self, message: Message) -> None:
        data = message.get("data") or {}
        if message["type"] == "posttrain.message":
            print(f"{self.clear()}{self.label}  {data['text']}", flush=True)
        if message["type"] != "posttrain.iteration":
            return
        last = data["iteration"] >= data["iterations"]
        if not (self.tty or last or time.monotonic() - self.said >= self.every):
            return
        self.said = time.monotonic()
        print(self.clear() + self.line(data), end="" if self.tty and not last else "\n", flush=True)

    def line(self, data: dict) -> str:
        metrics = data["metrics"]
        reward = metrics.get("reward_mean")
        self.first = reward if self.first is None else self.first
        parts = [f"iteration {data['iteration']:>3} of {data['iterations']}"]
        if reward is not None:
            parts.append(f"reward {reward:.3f} (at first {self.first:.3f})")
        if metrics.get("kl") is not None:
            parts.append(f"KL {metrics['kl']:.2e}")
        return f"{self.label}  " + "   ".join([*parts, f"{clock(data['seconds_left'])} left"])

    def clear(self) -> str:
        return "\r\033[K" if self.tty else ""


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
