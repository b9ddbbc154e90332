"""develop.py prove: trains from the shipped base, several seeds, and writes the evidence to docs/proof.md."""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.proofs import PROOFS

from .evaluate import Evaluation, evaluate, picture
from .host import ROOT, Host
from .report import write_report
from .training import Progress, clock, train

CONTROL_PACK = ROOT / "benchmarks" / "control_pack"


@dataclass(frozen=True)
class Outcome:
    """One run of a proof. Rates and gains are [mean, standard error]; rewards: per iteration, on training prompts."""

    name: str
    seed: int
    iterations: int
    minutes: float
    images: int
    before: dict[str, tuple[float, float]]
    after: dict[str, tuple[float, float]]
    gain: dict[str, tuple[float, float]]
    goal: str
    reached: bool
    rewards: list[float]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="develop.py prove", description="Trains from the shipped models, evaluates on "
                                     "held-out prompts and writes docs/proof.md.")
    parser.add_argument("name", nargs="*", help=f"which of: {', '.join(PROOFS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at the same time")
    parser.add_argument("--images", type=int, default=306, help="held-out images before and after (default: 306)")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE",
                        help="change an input of the workflow, for a try; nothing is written to docs then")
    parser.add_argument("--resume", action="store_true", help="go on with the runs of an interrupted prove")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.name) - set(PROOFS):
        parser.error(f"no proof {', '.join(unknown)}; there are {', '.join(PROOFS)}")
    changes = {key: json.loads(value) for key, value in (change.split("=", 1) for change in chosen.set)}
    changes["PTLoopStart.when_run_exists"] = "continue" if chosen.resume else "start over"
    jobs = [(name, seed) for name in chosen.name or PROOFS for seed in range(chosen.seeds)]
    print(f"{len(jobs)} runs, {chosen.jobs} at a time", flush=True)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        outcomes = list(pool.map(lambda job: prove(*job, changes, chosen.images), jobs))
    if chosen.set:
        print("Settings were changed for a try, so docs/ stays as it is.")
    else:
        print(f"Wrote {write_report([asdict(outcome) for outcome in outcomes], PROOFS)}")
    return 0 if all(outcome.reached for outcome in outcomes) else 1


def prove(name: str, seed: int, changes: dict[str, object], images: int) -> Outcome:
    """One training and its evaluation, in a ComfyUI of its own."""
    proof, label = PROOFS[name], f"{name}-{seed}"
    started = time.monotonic()
    base = Path(os.environ["POSTTRAIN_CACHE"]) / "prove" / label
    with Host(base, packs=[CONTROL_PACK]) as host:
        training = train(host, proof.graph(label, seed, changes), Progress(every=60, label=label))
        found = evaluate(host, training.lora, training.which_model, images)
        picture(found, base / "output" / "before_after.png")
    outcome = summarised(name, seed, training.iterations, training.seconds, found)
    (before, _), (after, _), (gain, error) = outcome.before["strict"], outcome.after["strict"], outcome.gain["strict"]
    print(f"{label}: {before:.1%} -> {after:.1%} ({100 * gain:+.1f} ± {100 * error:.1f} points) on {outcome.images} "
          f"images, goal: {outcome.goal}: {'reached' if outcome.reached else 'NOT REACHED'}, "
          f"{clock(time.monotonic() - started)}; {training.lora_path}", flush=True)
    return outcome


def summarised(name: str, seed: int, iterations: list[dict], seconds: float, found: Evaluation) -> Outcome:
    reached, goal = PROOFS[name].goal(found)
    scores = ("strict", "dense")
    return Outcome(name, seed, iterations[-1]["iteration"], round(seconds / 60, 1), len(found.values("after", "strict")),
                   {score: found.rate("before", score) for score in scores},
                   {score: found.rate("after", score) for score in scores},
                   {score: found.gain(score) for score in scores}, goal, reached,
                   [round(event["metrics"]["reward_mean"], 4) for event in iterations])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
