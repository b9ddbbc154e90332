"""develop.py prove: trains from the shipped base, several seeds, and writes the evidence to docs/proof.md."""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tools.evaluate import SKILLS, Evaluation, Few, Merged, evaluate, picture
from tools.evaluate_edits import evaluate_edits
from tools.graphs import images_seen, made_once
from tools.host import Host
from tools.rater import Rater
from tools.training import EDITS, Progress, clock, every, train

from .claims import PROOFS
from .distance import distance
from .person import Person
from .report import DOCS, known_outcomes, write_report

CONTROL_PACK = Path(__file__).with_name("control_pack")


@dataclass(frozen=True)
class Outcome:
    """One run of a proof. Rates and gains are [mean, standard error]; rewards: per iteration, on training prompts.

    images: held-out ones, before and after each; seen: images that the training made; evaluations: of the network, each
    of one image, in rollouts and updates; kl: to the reference, at the end, as the trainer logs it, or else ``distance``;
    diversity: before and after; recipe: see ``Proof.recipe``; kept: a student's share of its teacher's gain, see Evaluation.kept;
    skills: of a LoRA made of others, see Evaluation.skills.
    """

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
    seen: int
    evaluations: int
    kl: float
    diversity: tuple[float, float]
    recipe: str
    kept: float | None = None
    skills: dict[str, tuple[float, float, float]] | None = None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="develop.py prove", description="Trains from the shipped models, evaluates on "
                                     "held-out prompts and writes docs/proof.md.")
    parser.add_argument("name", nargs="*", help=f"which of: {', '.join(PROOFS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at the same time")
    parser.add_argument("--images", type=int, help="held-out images before and after (default: as the claim says, 306 mostly)")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE",
                        help="change an input of the workflow, for a try; nothing is written to docs then")
    parser.add_argument("--missing", action="store_true", help="only the runs that docs/proof.json does not have yet")
    parser.add_argument("--resume", action="store_true", help="go on with the runs of an interrupted prove")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.name) - set(PROOFS):
        parser.error(f"no proof {', '.join(unknown)}; there are {', '.join(PROOFS)}")
    if not chosen.set and not os.access(DOCS, os.W_OK):
        parser.error(f"the evidence goes to {DOCS}, which cannot be written to: take a copy of the repository that can, or try "
                     "other settings with --set, which writes nothing there")
    changes = {key: json.loads(value) for key, value in (change.split("=", 1) for change in chosen.set)}
    changes["PTLoopStart.when_run_exists"] = "continue" if chosen.resume else "start over"
    there = reported() if chosen.missing else set()
    jobs = [(name, seed) for seed in range(chosen.seeds) for name in chosen.name or PROOFS if (name, seed) not in there]
    print(f"{len(jobs)} runs, {chosen.jobs} at a time", flush=True)
    outcomes: list[dict] = []
    with ThreadPoolExecutor(chosen.jobs) as pool:
        runs = {pool.submit(prove, *job, changes, chosen.images): job for job in jobs}
        for run in as_completed(runs):
            if run.exception():
                print(f"{'{}-{}'.format(*runs[run])} failed: {run.exception()}", flush=True)
                continue
            outcomes.append(asdict(run.result()))
            if not chosen.set:  # with other settings than the claims' own it is an experiment
                write_report(outcomes, PROOFS)
    return 0 if len(outcomes) == len(jobs) and all(one["reached"] for one in outcomes) else 1


def reported() -> set[tuple[str, int]]:
    """(claim, seed) of the runs that the page has, of the claims as they are now."""
    return {(name, run["seed"]) for name, runs in known_outcomes().items() for run in runs
            if name in PROOFS and run["recipe"] == PROOFS[name].recipe()}


def prove(name: str, seed: int, changes: dict[str, object], images: int | None) -> Outcome:
    """One training and its evaluation, in a ComfyUI of its own."""
    proof, label = PROOFS[name], f"{name}-{seed}"
    started = time.monotonic()
    base = Path(os.environ["POSTTRAIN_CACHE"]) / "prove" / label
    graph = proof.graph(label, seed, changes)
    with Host(base, packs=[CONTROL_PACK]) as host:
        with Rater(host, Person(seed)) if every(graph, "PTRewardHuman", "mode") else nullcontext():
            training = train(host, graph, Progress(every=60, label=label))
        few = Few(training.earlier[-1], proof.few_steps) if proof.few_steps else None
        merged = Merged(dict(zip(SKILLS, training.earlier)), proof.merged_words) if proof.merged_words else None
        if training.which_model == EDITS:
            found = evaluate_edits(host, training.lora, images or proof.images, seed=10_000)
        else:
            found = evaluate(host, training.lora, training.which_model, images or proof.images, own=proof.own(), few=few,
                             merged=merged, drawing=proof.drawing)
        picture(found, base / "output" / "before_after.png")
        metrics = lines_of(base / "output" / "posttrain" / label / "metrics.jsonl")
        kl = metrics[-1].get("kl")
        if kl is None:
            kl = distance(host, [*training.earlier[-1:], training.lora] if few else [training.lora], training.which_model)
        outcome = summarised(name, seed, graph, metrics, found, kl)
    (before, _), (after, _), (gain, error) = outcome.before["strict"], outcome.after["strict"], outcome.gain["strict"]
    print(f"{label}: {before:.1%} -> {after:.1%} ({100 * gain:+.1f} ± {100 * error:.1f} points) on {outcome.images} "
          f"images, goal: {outcome.goal}: {'reached' if outcome.reached else 'NOT REACHED'}, "
          f"{clock(time.monotonic() - started)}; {training.lora_path}", flush=True)
    return outcome


def lines_of(file: Path) -> list[dict]:
    """The metrics of each iteration; from the run's folder, so that a resumed run is counted whole."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def summarised(name: str, seed: int, graph: dict, metrics: list[dict], found: Evaluation, kl: float) -> Outcome:
    proof = PROOFS[name]
    reached, goal = proof.goal(found)
    scores = ("strict", "dense", "own") if proof.own() else ("strict", "dense")
    return Outcome(
        name, seed, len(metrics), round(sum(one["seconds"] for one in metrics) / 60, 1),
        len(found.values("after", "strict")),
        *({score: measure(score) for score in scores}
          for measure in (partial(found.rate, "before"), partial(found.rate, "after"), found.gain)),
        goal, reached, [round(one["reward_mean"], 4) for one in metrics if "reward_mean" in one],
        seen=images_seen(graph, len(metrics)),
        evaluations=int(sum(one.get("rollout_evaluations", 0) for one in (metrics[:1] if made_once(graph) else metrics))
                        + sum(one.get("update_evaluations", 0) for one in metrics)),
        kl=kl, diversity=(found.diversity("before"), found.diversity("after")),
        recipe=proof.recipe(),
        kept=found.kept() if proof.few_steps and proof.of_teacher else None, skills=found.skills() or None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
