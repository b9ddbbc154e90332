"""How a session carries out, between two iterations, what its user has asked for meanwhile."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...rewards.base import beside, ranks, stopwatch
from ...rewards.base.files import written_whole
from .folder import FolderLost, Run, SettingsChanged
from .gauges import memory
from .journal import write_entry
from .out_of_memory import is_out_of_memory, steps_to_take, what_to_change
from .run_plan import RunPlan
from .steering import CHECKPOINT, PAUSE, Steering, let_go, numbers_of, turned

WORKFLOW = "workflow.json"


def room_of(policy: Any) -> dict:
    """What a policy's memory says was given up for want of memory, with its "words"."""
    return getattr(policy, "memory", {}).get("room", {})


def save_workflow(folder: Path, workflow: dict | None) -> None:
    with written_whole(folder / WORKFLOW) as beside:
        beside.write_text(json.dumps(workflow), encoding="utf-8")


class TrainingStopped(RuntimeError):
    """The training cannot go on; the state so far is saved."""


class Steered:
    """The part of a Session that listens to a Steering."""

    run: Any
    policy: Any
    plan: RunPlan
    iteration: int
    done: Any
    _before: int
    settings: dict
    root: Path
    _ask: Callable[[SettingsChanged], str]
    _plain: Callable[[str], str]
    _defaults: dict | None
    _workflow: dict | None
    _room: dict
    _steering: Steering
    _check_cancelled: Callable[[], None]
    _tell: Callable[..., None]
    _attempt: Callable[..., Any]
    _save: Callable[..., Any]
    message: Callable[..., Any]

    def _opened(self, when_exists: str) -> Run:
        """The run's folder. when_exists: how it shall be met if there is one, "" as the plan says; where its settings are others
        the user is asked."""

        def opened(how: str) -> Run:
            return Run.open(
                self.root, self.plan.run_name, self.settings, how, self._plain, self._defaults, self.plan.continue_from
            )

        try:
            return opened(when_exists or self.plan.when_exists)
        except SettingsChanged as changed:
            answer = self._ask(changed)
            if not answer:
                raise
            self.plan = replace(self.plan, when_exists=answer)
            return opened(answer)

    def _check_folder(self, run: Run) -> None:
        """Raises TrainingStopped where the run's folder was taken away; leaving the session then saves into a new one."""
        try:
            run.check_there()
        except FolderLost as error:
            self.message(str(error), "warning")
            raise TrainingStopped(str(error)) from None
        except OSError as error:
            raise TrainingStopped(
                f"The folder of the run '{run.name}' is gone and cannot be made again "
                f"({error.strerror or error}). The state is kept in memory until ComfyUI is closed: bring the "
                "folder back and queue again."
            ) from None

    def _begin(self) -> None:
        """From here on it can be steered, and what is done is timed."""
        if self.run is not None:
            self._steering.__enter__()
            self._watch, self._timing = stopwatch.collect()
            self._beside = beside.collect(self.plan.iterations)

    def _end(self) -> None:
        if self.run is not None:
            self._steering.__exit__()
            stopwatch.end(self._timing)
            beside.end(*self._beside)

    def _gauged(self) -> dict[str, float]:
        """Where the time of an iteration went, and the memory it took."""
        if self.run is None:
            return {}
        return {f"seconds_{work}": round(seconds, 4) for work, seconds in self._watch.take().items()} | memory()

    def _obey(self) -> None:
        """After an iteration: a checkpoint that was asked for, changed numbers, and a pause, which lasts until it is over."""
        if self._steering.take(CHECKPOINT):
            self._attempt("checkpoint", self._save_for_good)
        self._steering.numbers = numbers_of(self.policy)
        for name, value in ranks.of_first("numbers", self._steering.take_numbers).items():
            before = self._steering.numbers[name]
            self._steering.numbers[name] = value
            self.policy = turned(self.policy, {name: value}, self.run.config["fingerprint"])
            self.steered(f"From here on the {name} is {value:g} (before: {before:g}).", number=name, value=value, before=before)
        if PAUSE in self._steering.asked and not self.done:
            self._pause()

    def _pause(self) -> None:
        if self.iteration > self.run.saved:
            self._attempt("state", self._save)
        self._attempt("status", lambda: self.run.update(status="paused", iteration=self.iteration))
        self.steered(
            "Paused. Its state is saved: go on with the button, or cancel to free the queue and queue again later.",
            what="paused",
        )
        self._tell("state", status="paused", iteration=self.iteration)
        self._steering.pause(self._check_cancelled)
        self._clock = time.monotonic()  # it is no part of the next iteration
        self._attempt("status", lambda: self.run.update(status="running"))
        self.steered("It goes on.", what="goes on")
        self._tell("state", status="running", iteration=self.iteration)

    def _note_numbers(self, numbers: dict) -> None:
        """The numbers that this session trains with, into the run's folder; said where they are not those of before."""
        run: Any = self.run
        known = run.config.get("numbers")
        if self.iteration != self._before + 1 or not numbers or numbers == known:
            return
        self._attempt("numbers", lambda: run.update(numbers=numbers))
        if known is None:
            self.message(numbers["words"])
        else:
            self.message(f"It goes on with other numbers than before. {numbers['words']}", "warning")

    def _note_room(self) -> None:
        """What the iteration gave up for want of memory, said once; the policy's memory keeps it for the run."""
        room = room_of(self.policy)
        if room != self._room:
            self._room = room
            self.message(room.get("words", ""), "warning")

    def _save_for_good(self) -> None:
        self.run.update(kept=sorted({*self.run.config.get("kept", ()), self.iteration}))
        self._save()
        self.steered(f"The checkpoint of iteration {self.iteration} is kept for good.", what="kept")

    def _take_up_numbers(self) -> None:
        """When a run goes on: with the numbers that were changed while it trained, or with the workflow's where those are new."""
        self.policy, dropped = let_go(self.policy, self.run.config["fingerprint"])
        if dropped:
            said = ", ".join(f"{name} {value:g}" for name, value in dropped.items())
            self.steered(
                f"The workflow's settings are new, so what was changed on the page holds no longer ({said}).",
                what="let go",
                said=said,
            )

        if hasattr(self.policy, "run"):  # a LoRA that is saved from it says where it comes from
            self.policy = replace(self.policy, run={"name": self.run.name, "id": self.run.config["id"]})

    def _keep_workflow(self) -> None:
        if self._workflow is not None:
            self._attempt("workflow", lambda: save_workflow(self.run.folder, self._workflow))

    def _memory_advice(self, error: BaseException | None) -> str:
        """Said in the run's history, too; "" where there was memory enough."""
        if not is_out_of_memory(error):
            return ""
        said = what_to_change(self.settings)
        self.message(said, "warning", values={"what": "memory is full", **steps_to_take(self.settings)})
        return said

    def steered(self, text: str, **values) -> None:
        """Something that the user has done, said on the page and kept in the run's history."""
        self.message(text, "steer", values=values)

    def _write_down(self, text: str, level: str, more: dict) -> None:
        """Into the run's history; a disk that does not take it must not cost the training."""
        try:
            write_entry(self.run.folder, self.iteration, text, level, **more)
        except (OSError, TypeError, ValueError) as error:  # the page has heard it all the same
            logging.warning("PostTrain: %s: its history could not be written (%s)", self.run.name, error)
