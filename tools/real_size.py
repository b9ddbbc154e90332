"""Templates for a model of one's own on files of real size: python develop.py test --real-size [own_sd15 ...] [--at-most GB].

Each runs through the host's own loaders, on random weights written into the cache folder for it, in a server of its own: 128
pixels, one iteration of the smallest group. Says what it took; what does not fit the machine is said before anything is written.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from . import pack
from .environment import cache_folder
from .host import Host, HostError
from .training import clock, load_workflow, only, with_defaults

GB = 1e9
ROOM = 5.0  # GB of the host, PyTorch, the training and layers in float32, besides the weights
SPARE = 2.0  # GB of the disk that are left alone
TRAINED = 0.6  # of the network's bytes: a training's float32 weights, two moments, gradients and its LoRA; less of it is saved
# what a loader's file is called, and where the host looks for it
FOLDERS = {"CheckpointLoaderSimple": ("ckpt_name", "checkpoints"), "UNETLoader": ("unet_name", "diffusion_models"),
           "CLIPLoader": ("clip_name", "text_encoders"), "VAELoader": ("vae_name", "vae")}  # fmt: skip
CHANGES = {"PTSampling.width": 128, "PTSampling.height": 128, "PTSampling.steps": 2, "PTSampling.guidance": 1.0,
           "PTSampling.noise_level": 0.7, "PTSampling.prompts_per_iteration": 1, "PTSampling.images_per_prompt": 2,
           "PTSampling.batch_size": 1, "PTTrain.iterations": 1, "PTTrain.when_run_exists": "start over",
           "KSampler.steps": 1, "KSampler.cfg": 1.0,
           "PTPromptList.text": "a lighthouse on a cliff at dusk\na bowl of ramen on a wooden table"}  # fmt: skip
REWARD = {"class_type": "PTRewardColour", "inputs": {"statistic": "colourfulness", "aim": "more"}}  # needs no file


@dataclass(frozen=True)
class Outcome:
    """Of one template. weights: GB of its files; peak: GB of the server; words: why there is no peak."""

    template: str
    model: str
    weights: float
    peak: float = 0.0
    seconds: float = 0.0
    words: str = ""

    def row(self) -> str:
        took = self.words or f"{self.peak:.1f} GB at most, {clock(self.seconds)} minutes"
        return f"{self.template:<12} {self.model:<16} files {self.weights:5.1f} GB   {took}"


def main(arguments: list[str]) -> int:
    """-> 1 where a template that was run failed; one that does not fit is no failure."""
    pack.module("tools.host", host=True)
    real_files = pack.module("tools.real_files")
    parser = argparse.ArgumentParser(prog="develop.py test --real-size", description=__doc__)
    parser.add_argument("templates", nargs="*", metavar="template", help=f"of {', '.join(real_files.FAMILIES)}; default all")
    parser.add_argument("--at-most", type=float, metavar="GB", help="of memory; default: what is free, swap space too")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.templates if name not in real_files.FAMILIES]:
        parser.error(f"there is no template {unknown[0]}; there are {', '.join(real_files.FAMILIES)}")
    outcomes, failed = [], False
    for name in chosen.templates or real_files.FAMILIES:
        try:
            outcomes.append(outcome(name, real_files, chosen.at_most))
        except HostError as error:
            failed = True
            print(f"{name}: {error}", flush=True)
            outcomes.append(Outcome(name, real_files.FAMILIES[name].name, 0, words=f"FAILED: {str(error).splitlines()[0]}"))
        print(outcomes[-1].row(), flush=True)
    if len(outcomes) > 1:
        print("\n" + "\n".join(each.row() for each in outcomes))
    return int(failed)


def outcome(name: str, real_files, at_most: float | None) -> Outcome:
    family, graph = real_files.FAMILIES[name], smallest(name)
    held = real_files.parts_of(family)
    files = {Path(FOLDERS[kind][1]) / node["inputs"][FOLDERS[kind][0]]: held[kind]
             for node in graph.values() if (kind := node["class_type"]) in FOLDERS}  # fmt: skip
    weights, network = sum(map(real_files.size_of, files.values())) / GB, real_files.size_of(held["UNETLoader"]) / GB
    memory = free_memory() if at_most is None else min(at_most, free_memory())
    if words := too_large(weights, network, memory, free_disk()):
        return Outcome(name, family.name, weights, words=f"not run: {words}")
    with folder() as base:
        for place, state in files.items():
            (file := base / "models" / place).parent.mkdir(parents=True, exist_ok=True)
            print(f"{name}: writing {place.name}, {real_files.size_of(state) / GB:.1f} GB ...", flush=True)
            real_files.write(file, state)
        eight = family.types[0] == real_files.EIGHT
        peak, seconds = run(base, graph, "--fp8_e4m3fn-unet" if eight else "--bf16-unet")
    return Outcome(name, family.name, weights, peak, seconds)


def too_large(weights: float, network: float, memory: float, disk: float) -> str:
    """Why a model is not tried whose files have so many GB, its network so many of them; "" where it fits. The picture after
    training is drawn with the network's weights twice in memory: the host keeps those without the LoRA, too."""
    needed = weights + network + TRAINED * network + ROOM
    if needed > memory:
        return f"it needs about {needed:.0f} GB of memory, and may take {memory:.1f}"
    written = weights + TRAINED * network + SPARE
    if written > disk:
        return f"its files and what is trained need {written:.0f} GB of the disk, of which {disk:.1f} are free"
    return ""


def smallest(name: str) -> dict:
    """A template for one iteration of the smallest group, with a reward that needs no file."""
    graph = load_workflow(name, CHANGES)
    graph[only(graph, "PTGoal")] = REWARD
    for node in graph.values():
        if "LatentImage" in node["class_type"]:
            node["inputs"] |= {"width": 128, "height": 128, "batch_size": 1}
    return graph


def run(base: Path, graph: dict, *flags: str) -> tuple[float, float]:
    """-> GB of the server at the most, seconds of the workflow. HostError says what went wrong."""
    with Host(base, *flags) as host:
        began = time.monotonic()
        try:
            result = host.run(with_defaults(graph, host.object_info()), timeout=6 * 3600)
        except HostError as error:
            if host.process.poll() == -signal.SIGKILL:
                raise HostError("ComfyUI was killed from outside, most likely because memory ran out") from error
            raise
        if result.event != "success":
            raise HostError(f"the workflow ended with {result.event}: {result.text}")
        loras = list((base / "models" / "loras").rglob("*.safetensors"))
        if not loras or len(result.outputs[only(graph, "PTTrain")]["images"]) != 1:
            raise HostError("the workflow ended, but there is no LoRA, or no curve")
        return result.rss_peak / 1e3, time.monotonic() - began


def free_memory() -> float:
    """Swap space counts: slow, but most weights lie still for most of the time."""
    return (psutil.virtual_memory().available + psutil.swap_memory().free) / GB


def free_disk() -> float:
    return shutil.disk_usage(cache_folder()).free / GB


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """In the cache folder: a machine's own place for passing files may lie in its memory."""
    with tempfile.TemporaryDirectory(prefix="real-size-", dir=cache_folder(), ignore_cleanup_errors=True) as place:
        yield Path(place)


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.ERROR)  # the host tells at length how it would load each
    sys.exit(main(sys.argv[1:]))
