"""A policy that costs nothing, a listener, and a training of them: what the tests of runs share."""
from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from posttrain.trainers.run import RunPlan, Session
from posttrain.trainers.run.checkpoints import list_checkpoints

ROOT = Path(__file__).resolve().parents[4]


@dataclass(frozen=True)
class Counter:
    """The least that a policy can be; each step depends on all before it, so a resume that is not exact shows."""

    value: torch.Tensor = field(default_factory=lambda: torch.tensor([0.5], dtype=torch.float64))
    metrics: dict = field(default_factory=dict)

    def state(self):
        return {"value": self.value, "same memory": self.value}, {"metrics": self.metrics}

    def with_state(self, tensors, meta):
        return replace(self, value=tensors["value"], metrics=meta["metrics"])

    def stepped(self, **metrics):
        value = 3.7 * self.value * (1 - self.value)
        return Counter(value, {"reward_mean": float(value), **metrics})


class Heard(list):
    def __call__(self, kind, **data):
        self.append((kind, data))

    def of(self, kind):
        return [data for k, data in self if k == kind]


def train(root, iterations, *, stop_at=None, heard=None, settings=None, name="cats", error=RuntimeError, **plan):
    """Trains and returns the session; at ``stop_at`` iterations ``error`` is raised, as a failing node would."""
    session = Session(root, RunPlan(name, iterations, **{"save_every": 4} | plan), Counter(), settings or {"a": 1},
                      heard if heard is not None else Heard(), cancelled=(KeyboardInterrupt,),
                      paused=(ConnectionError,))
    with session:
        while not session.done:
            if session.iteration == stop_at:
                raise error("stopped by the test")
            session.advance(session.policy.stepped())
    return session


def files(root, name="cats"):
    return [i for i, _ in list_checkpoints(root / name / "checkpoints")]


def child(tmp_path, code, **extra):
    """Python in another process, with the pack importable."""
    head = f"""
        import sys, types, time, json
        from pathlib import Path
        pack = types.ModuleType("posttrain"); pack.__path__ = [{str(ROOT)!r}]; sys.modules["posttrain"] = pack
        import torch
        from posttrain.trainers.run import Run, Session, RunPlan
        root = Path({str(tmp_path)!r})
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **extra)
