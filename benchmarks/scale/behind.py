"""develop.py behind: a training whose images are drawn after each update beside one whose images are drawn during it.

Three ComfyUIs of this machine: one trains the demo world with DiffusionNFT, two draw for it. Nothing else differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tools.host import Host
from tools.training import finished, load_workflow, only

from ..pages import put_between
from .page import PAGE, in_columns

START, END = "<!-- one behind: written by develop.py behind -->", "<!-- end of one behind -->"
WORKFLOW, WHENS, SAMPLERS, EVERY = "learn_to_follow_prompts_nft", ("after each update", "during the update"), 2, 3
SMALL = {"PTNFT.decay_steps": 0, "PTLoopEnd.samples_every": 0}
SAMPLING = {"prompts_per_iteration": 8, "images_per_prompt": 12, "batch_size": 48}
HELD_OUT, BEHIND = "held_out_reward", "iterations_behind"
LEFT_OUT = ("KSampler", "VAEDecode", "PreviewImage", "ImageScaleBy", "CLIPTextEncode", "EmptyLatentImage", "PTApplyPolicy")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="develop.py behind", description=__doc__)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="put the numbers into docs/scale.md")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="posttrain-behind-") as folder, ExitStack() as running:
        hosts = [running.enter_context(Host(Path(folder) / str(number))) for number in range(1 + SAMPLERS)]
        addresses = [host.url for host in hosts[1:]]
        curves = {when: trained(hosts[0], graph(when, addresses, chosen.iterations)) for when in WHENS}
    text = table(curves)
    print(text)
    if chosen.write:
        put_between(PAGE, START, END, f"\n{text}\n")
    return 0


def graph(when: str, addresses: list[str], iterations: int) -> dict:
    """The shipped workflow, smaller, without pictures, its images drawn by others."""
    made = load_workflow(WORKFLOW, SMALL | {"PTLoopStart.iterations": iterations, "PTLoopStart.run_name": when})
    made = {name: node for name, node in made.items() if node["class_type"] not in LEFT_OUT}
    rollout, world = made[only(made, "PTRollout")], only(made, "PTDemoWorld")
    made[rollout["inputs"]["sampling"][0]]["inputs"] |= SAMPLING
    made["computers"] = {
        "class_type": "PTOtherComputers",
        "inputs": {
            "model": [world, 0],
            "clip": [world, 1],
            "addresses": "\n".join(addresses),
            "sampler": "as Rollout, with random steps",
            "lora_precision": "float32",
            "longest_wait": 600.0,
            "draw_images": when,
        },
    }
    rollout["class_type"] = "PTRolloutOnComputers"
    rollout["inputs"]["computers"] = ["computers", 0]
    made[only(made, "PTSaveLora")]["inputs"]["file_name"] = f"behind/{when}"
    return made


def trained(host: Host, made: dict) -> list[dict]:
    """The numbers of each iteration."""
    name = made[only(made, "PTLoopStart")]["inputs"]["run_name"]
    finished(host, made, "training", timeout=6 * 3600)
    return host.get(f"/posttrain/runs/{name}").json()["points"]


def table(curves: dict[str, list[dict]]) -> str:
    """Means of a few iterations each, and what an iteration took."""
    count = min(map(len, curves.values()))
    parts = [range(at, min(at + EVERY, count)) for at in range(0, count, EVERY)]
    rows = [
        [f"reward, iterations {part[0] + 1} to {part[-1] + 1}"]
        + [f"{mean([points[i]['reward_mean'] for i in part]):.3f}" for points in curves.values()]
        for part in parts
    ]
    for name, words, form in ((HELD_OUT, "held-out prompts at the end", ".3f"), (BEHIND, "iterations behind at the end", "g")):
        rows.append([words, *(format(last.get(name, 0), form) for last in ends(curves))])
    for name, words in (("seconds", "seconds of an iteration"), ("seconds_sampling", "of these waiting for images")):
        rows.append([words, *(f"{mean([point[name] for point in points[1:]]):.1f}" for points in curves.values())])
    return in_columns(", ".join(curves), rows)


def ends(curves: dict[str, list[dict]]) -> list[dict]:
    """Of each the last iteration that the held-out prompts were measured in."""
    return [[point for point in points if HELD_OUT in point][-1] for points in curves.values()]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
