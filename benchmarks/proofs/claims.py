"""What `develop.py prove` trains and what must come out: one row for each claim of learning.

Every row starts from the shipped workflow of the wired loop, so a trainer more is a row more.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

from tools.evaluate import Evaluation, node
from tools.training import load_workflow, producer

FLOW, EPS = "flow (tiny SD3)", "eps (tiny SD1.5)"
Verdict = tuple[bool, str]
Goal = Callable[[Evaluation], Verdict]


def reaches(rate: float) -> Goal:
    """The strict pass rate on held-out prompts after training is ``rate`` or more."""
    def judge(found: Evaluation) -> Verdict:
        after, _ = found.rate("after")
        return after >= rate, f"{rate:.0%} or more"
    return judge


def rises(errors: float = 3) -> Goal:
    """The strict or the dense score rises by more than ``errors`` standard errors of the paired difference."""
    def judge(found: Evaluation) -> Verdict:
        gains = [found.gain(score) for score in ("strict", "dense")]
        return any(gain > errors * error for gain, error in gains), f"strict or dense up by more than {errors:g} errors"
    return judge


def stays(errors: float = 3) -> Goal:
    """The strict score does not rise by more than ``errors`` standard errors of the paired difference."""
    def judge(found: Evaluation) -> Verdict:
        gain, error = found.gain()
        return gain <= errors * error, f"no rise of more than {errors:g} errors"
    return judge


@dataclass(frozen=True)
class Proof:
    """One claim. changes: inputs set on the workflow's nodes; trainer: a trainer node in place of the workflow's;
    shuffled: the rewards are dealt out at random."""

    title: str
    goal: Goal
    changes: dict[str, object] = field(default_factory=dict)
    trainer: dict | None = None
    shuffled: bool = False
    workflow: str = "learn_to_follow_prompts_flow_grpo"

    def graph(self, run_name: str, seed: int, changes: dict[str, object]) -> dict:
        """The workflow of one run."""
        graph = load_workflow(self.workflow)
        if self.trainer:
            graph[producer(graph, "PTTrainStep", "trainer")] = self.trainer
        if self.shuffled:
            graph["shuffle"] = node("ControlShuffleScores", scores=[producer(graph, "PTAdvantages", "scores"), 0],
                                    iteration=[producer(graph, "PTLoopEnd", "loop"), 2], seed=seed)
            graph[producer(graph, "PTTrainStep", "feedback")]["inputs"]["scores"] = ["shuffle", 0]
        everywhere = {"PTLoopStart.run_name": run_name, "PTSaveLora.file_name": f"posttrain/{run_name}",
                      "PTSampling.seed": seed, "PTCreatePolicy.seed": seed}
        return load_workflow(graph, self.changes | everywhere | changes)


PROOFS = {
    "flow_grpo": Proof("Flow-GRPO on the flow transformer", reaches(0.85),
                       {"PTLoopStart.iterations": 130, "PTFlowGRPO.decay_steps": 260}),
    "flow_grpo_shuffled": Proof("Flow-GRPO with shuffled rewards (control)", stays(),
                                {"PTLoopStart.iterations": 60}, shuffled=True),
    "ddpo": Proof("DDPO-IS on the eps UNet", rises(),
                  {"PTDemoWorld.which_model": EPS, "PTLoopStart.iterations": 100, "PTSampling.noise_level": 1.0,
                   "PTSampling.noisy_steps": 0, "PTCreatePolicy.layers": "all linear layers and convolutions"},
                  trainer=node("PTDDPO", learning_rate=6e-4, updates_per_rollout=2, clip_range=1e-4, watch_kl=True,
                               decay_steps=200, averaging=0.9)),
}
