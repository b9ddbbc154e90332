"""develop.py target: how much of one core's time each trainer needs until it draws what the prompts say.

Each claim's training runs with the demo's held-out prompts measured on the way. A training's time is the processor's, of the
whole server from the submission on, so that other work on the machine hardly counts; measuring is no part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.evaluate import SCORES, STEPS, node
from tools.graphs import edit_pictures
from tools.host import Host, Message
from tools.rater import Rater
from tools.training import every, with_defaults

from ..pages import put_between
from .claims import PROOFS
from .person import Person
from .prove import CONTROL_PACK
from .report import DOCS

DATA, PAGE = DOCS / "target.json", DOCS / "bench.md"
START, END = "<!-- target: written by develop.py target -->", "<!-- end of target -->"
TARGET, IN_A_ROW = 0.9, 2  # one measurement alone may be luck
EACH = 17  # images of a prompt: 306 in all, one standard error is 1.7 points at the target
EVERY = 3  # iterations
# what draws the demo's prompts, and learns to: edits have pictures and a checker of their own
RIVALS = [
    name for name, proof in PROOFS.items() if proof.own() is None and not proof.shuffled and proof.wiring is not edit_pictures
]


@dataclass
class Course:
    """A training's measurements. points: [seconds of one core, evaluations of the network so far, share of the held-out images
    that are right], each after an iteration."""

    name: str
    seed: int
    recipe: str
    points: list[list[float]] = field(default_factory=list)
    iterations: int = 0
    note: str = ""  # why it ended, in the server's words, where it did not come to its end

    def reached(self) -> list[float] | None:
        """The point that was the first of enough in a row at the target."""
        for place in range(len(self.points) - IN_A_ROW + 1):
            if all(right >= TARGET for *_, right in self.points[place : place + IN_A_ROW]):
                return self.points[place]
        return None


class Clock:
    """Reads the server's processor time at each iteration. An iteration that was measured counts as the mean of those before
    it that were not, since the measurement lies within it."""

    def __init__(self, host: Host, course: Course, limit: float) -> None:
        self.host, self.course, self.limit = host, course, limit
        self.read, self.seconds, self.evaluations = self.used(), 0.0, 0.0
        self.plain: list[float] = []

    def used(self) -> float:
        times = self.host.status.cpu_times()
        return times.user + times.system

    def __call__(self, message: Message) -> bool:
        """Whether the run may end."""
        if message["type"] != "posttrain.iteration":
            return False
        line, now = message["data"]["metrics"], self.used()
        spent, self.read = now - self.read, now
        right = line.get("held_out_reward")
        if right is None:
            if self.course.iterations:  # the first one loads the model too
                self.plain.append(spent)
        elif self.plain:
            spent = sum(self.plain) / len(self.plain)
        self.seconds += spent
        self.evaluations += line.get("rollout_evaluations", 0) + line.get("update_evaluations", 0)
        self.course.iterations += 1
        if right is not None:
            self.course.points.append([round(self.seconds, 1), int(self.evaluations), round(right, 4)])
            print(f"{self.course.name}-{self.course.seed}  {self.seconds:6.0f} s  {right:.1%}", flush=True)
        return self.course.reached() is not None or self.seconds > self.limit


def measured(graph: dict, which_model: str) -> dict:
    """The graph whose last loop is measured on the held-out prompts; what follows the loop is never reached."""
    loop = [content for content in graph.values() if content["class_type"] == "PTLoopStart"][-1]
    loop["inputs"]["evaluation"] = ["measured", 0]
    graph["exact"] = node("PTDemoWorld", which_model=which_model, score=SCORES["strict"])
    graph["other prompts"] = node("PTEncodePrompts", prompts=["exact", 4], clip=["exact", 1], negative="")
    graph["as drawn"] = node(
        "PTSampling",
        width=24,
        height=24,
        steps=STEPS,
        scheduler="simple",
        guidance=1.0,
        images_per_prompt=EACH,
        batch_size=64,
        seed=10_000,
        transition="deterministic",
    )
    graph["measured"] = node(
        "PTEvaluateWhileTraining",
        prompts=["other prompts", 0],
        vae=["exact", 2],
        reward=["exact", 5],
        sampling=["as drawn", 0],
        every=EVERY,
    )
    return graph


def race(name: str, seed: int, limit: float, changes: dict[str, object]) -> Course:
    """One training until it is at the target, at its own end or over the limit."""
    proof = PROOFS[name]
    course = Course(name, seed, proof.recipe())
    graph = proof.graph(f"target-{name}-{seed}", seed, {"PTLoopStart.when_run_exists": "start over"} | changes)
    graph = measured(graph, every(graph, "PTDemoWorld", "which_model")[0])
    base = Path(os.environ["POSTTRAIN_CACHE"]) / "target" / f"{name}-{seed}"
    with Host(base, packs=[CONTROL_PACK]) as host:
        clock = Clock(host, course, limit)
        with Rater(host, Person(seed)) if every(graph, "PTRewardHuman", "mode") else nullcontext():
            result = host.run(with_defaults(graph, host.object_info()), cancel_when=clock, timeout=6 * 3600)
    if result.event not in ("success", "interrupted"):
        course.note = result.text
    return course


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="develop.py target",
        description=f"Processor time to {TARGET:.0%} of the held-out images right, trainer by trainer; writes docs/bench.md.",
    )
    parser.add_argument("name", nargs="*", help=f"which of: {', '.join(RIVALS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each (default: 1)")
    parser.add_argument("--limit", type=float, default=600, help="seconds of one core after which a run ends (default: 600)")
    parser.add_argument("--missing", action="store_true", help="only the runs that docs/target.json does not have yet")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change an input of the workflow, for a try; nothing is written to docs then",
    )
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.name) - set(RIVALS):
        parser.error(f"no trainer {', '.join(unknown)}; there are {', '.join(RIVALS)}")
    changes = {key: json.loads(value) for key, value in (change.split("=", 1) for change in chosen.set)}
    there = {(course.name, course.seed) for course in known()} if chosen.missing else set()
    for seed in range(chosen.seeds):
        for name in chosen.name or RIVALS:
            if (name, seed) in there:
                continue
            course = race(name, seed, chosen.limit, changes)
            print(f"{name}-{seed}: {course.note or words(course)}", flush=True)
            if not chosen.set and not course.note:
                write(course)
    return 0


def known() -> list[Course]:
    """The runs on record, of the claims as they are now."""
    found = [Course(**run) for run in json.loads(DATA.read_text(encoding="utf-8"))] if DATA.exists() else []
    return [course for course in found if course.name in RIVALS and course.recipe == PROOFS[course.name].recipe()]


def write(course: Course) -> None:
    """Puts the run in the place of an older one of its name and seed, and the table anew."""
    kept = [other for other in known() if (other.name, other.seed) != (course.name, course.seed)]
    courses = sorted([*kept, course], key=lambda each: (RIVALS.index(each.name), each.seed))
    DATA.write_text(json.dumps([asdict(each) for each in courses], indent=1), encoding="utf-8")
    put_between(PAGE, START, END, table(courses))


def table(courses: list[Course]) -> str:
    """The quickest first; those that were not there in time after them, the best first."""
    by_name: dict[str, list[Course]] = {}
    for course in courses:
        by_name.setdefault(course.name, []).append(course)
    lines = [f"| trainer | to {TARGET:.0%} of the held-out images | evaluations until then | best |", "|---|---|---|---|"]
    for name, runs in sorted(by_name.items(), key=lambda item: rank(item[1])):
        ends = [run.reached() for run in runs]
        lines.append(
            f"| {PROOFS[name].title} (`{name}`) | {' / '.join(map(words, runs))} | "
            f"{' / '.join(f'{end[1] / 1e6:.2f} M' if end else '' for end in ends)} | "
            f"{' / '.join(f'{best(run)[2]:.1%} at {best(run)[0]:.0f} s' for run in runs)} |"
        )
    return "\n".join(lines)


def rank(runs: list[Course]) -> tuple[int, float]:
    ends = [run.reached() for run in runs]
    if all(ends):
        return 0, sum(end[0] for end in ends) / len(ends)
    return 1, -sum(best(run)[2] for run in runs) / len(runs)


def best(course: Course) -> list[float]:
    return max(course.points, key=lambda point: point[2], default=[0.0, 0, 0.0])


def words(course: Course) -> str:
    end = course.reached()
    return f"{end[0]:.0f} s" if end else f"not in {course.points[-1][0] if course.points else 0:.0f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
