"""A claim of learning: what is trained, from which workflow, and what must come out."""
from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass, field
from typing import Callable

from tools.evaluate import Drawing, Evaluation
from tools.graphs import set_names, shuffle_rewards, swap_feedback, swap_reward, swap_trainer
from tools.training import load_workflow

Verdict = tuple[bool, str]
Goal = Callable[[Evaluation], Verdict]


def reaches(rate: float) -> Goal:
    """The strict pass rate on held-out prompts after training is ``rate`` or more."""
    def judge(found: Evaluation) -> Verdict:
        after, _ = found.rate("after")
        return after >= rate, f"{rate:.0%} or more"
    return judge


def gains(points: float) -> Goal:
    """The strict pass rate rises by ``points`` hundredths or more."""
    def judge(found: Evaluation) -> Verdict:
        gain, _ = found.gain()
        return 100 * gain >= points, f"{points:g} points or more"
    return judge


def rises(*scores: str, errors: float = 3) -> Goal:
    """One of the scores (default: strict or dense) rises by more than ``errors`` standard errors of the difference."""
    scores = scores or ("strict", "dense")

    def judge(found: Evaluation) -> Verdict:
        found_gains = [found.gain(score) for score in scores]
        return (any(gain > errors * error for gain, error in found_gains),
                f"{' or '.join(scores)} up by more than {errors:g} errors")
    return judge


def stays(errors: float = 3) -> Goal:
    """The strict score does not rise by more than ``errors`` standard errors of the paired difference."""
    def judge(found: Evaluation) -> Verdict:
        gain, error = found.gain()
        return gain <= errors * error, f"no rise of more than {errors:g} errors"
    return judge


def beats_teacher(errors: float = 3) -> Goal:
    """In the student's few steps it is better than its teacher in as many, by more than ``errors`` standard errors."""
    def judge(found: Evaluation) -> Verdict:
        gain, error = found.gain()
        return gain > errors * error, f"better than its teacher in as few steps by more than {errors:g} errors"
    return judge


def keeps(share: float) -> Goal:
    """In its few steps the student still shows ``share`` of what its teacher, in many, had gained over the base."""
    def judge(found: Evaluation) -> Verdict:
        return found.kept() >= share, f"{share:.0%} of the teacher's gain or more"
    return judge


def keeps_skills(points: float) -> Goal:
    """Of each skill, on its own prompts, at most ``points`` hundredths less are right than with the LoRA of that skill alone."""
    def judge(found: Evaluation) -> Verdict:
        shares = found.skills().values()
        return (bool(shares) and all(after >= teacher - points / 100 for _, teacher, after in shares),
                f"each skill within {points:g} points of its own LoRA")
    return judge


@dataclass(frozen=True)
class Proof:
    """One claim. changes: inputs set on the workflow's nodes; trainer, feedback, reward: nodes in place of the workflow's
    (feedback without its scores); measured: a reward node that says on held-out images whether it was learned, where that is
    not the reward itself; wiring: what else is wired in another way; shuffled: rewards dealt out at random;
    merged_words: the last LoRA was made of one for each of evaluate.SKILLS, and prompts that hold one of these are the first's;
    few_steps: the last LoRA is a student's, held against the LoRA before it in so many steps; of_teacher: whether what that one had gained
    in many steps is what the student shall keep; drawing: how the held-out images are drawn; images: held-out ones, before and
    after each, more of them where a small gain is to be told from none. What the workflow asks a person, a simulated one
    answers."""

    title: str
    goal: Goal
    changes: dict[str, object] = field(default_factory=dict)
    trainer: dict | None = None
    feedback: dict | None = None
    reward: dict | None = None
    measured: dict | None = None
    wiring: Callable[[dict], None] | None = None
    shuffled: bool = False
    few_steps: int = 0
    of_teacher: bool = True
    merged_words: tuple[str, ...] = ()
    drawing: Drawing = Drawing()
    images: int = 306
    workflow: str = "learn_to_follow_prompts_flow_grpo"

    def graph(self, run_name: str, seed: int, changes: dict[str, object]) -> dict:
        """The workflow of one run."""
        graph = load_workflow(self.workflow)
        if self.trainer:
            swap_trainer(graph, self.trainer)
        if self.feedback:
            swap_feedback(graph, self.feedback)
        if self.reward:
            swap_reward(graph, self.reward)
        if self.wiring:
            self.wiring(graph)
        if self.shuffled:
            shuffle_rewards(graph, seed)
        set_names(graph, run_name)
        everywhere = {"PTSampling.seed": seed, "PTPairBatch.seed": seed, "PTCreatePolicy.seed": seed}
        kinds = {content["class_type"] for content in graph.values()}
        there = {place: value for place, value in everywhere.items() if place.split(".")[0] in kinds}
        return load_workflow(graph, self.changes | there | changes)

    def own(self) -> dict | None:
        """The reward node for the score "own", None: the verifier's scores say it all."""
        return self.measured or self.reward

    def recipe(self) -> str:
        """Short name of what is trained, the same for all seeds: runs of another recipe say nothing about this claim."""
        graph = self.graph("any run", 0, {})
        wired = {name: [content["class_type"], content["inputs"]] for name, content in graph.items()}  # titles do not count
        drawn = [] if self.drawing == Drawing() else [astuple(self.drawing)]
        text = json.dumps([wired, self.own(), *drawn], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
