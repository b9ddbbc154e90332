"""One training from start to end: what is booked after every iteration, for the wired loop and for Train alike."""
from __future__ import annotations

import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...rewards.base import ranks
from .alarms import Alarms, for_page
from .checkpoints import SaveFailed
from .compared import keep_compared
from .folder import CONTINUE_CHANGED, Run, SettingsChanged
from .held_out import HeldOutCurve
from .notices import Notices
from .on_ranks import open_on_all
from .pictures import picture_stats
from .run_plan import RunPlan
from .samples import HELD_OUT, TRAINED
from .steered import Steered, TrainingStopped, room_of
from .steering import SAMPLE, STOP, Steering
from .stopping import Stopping
from .summary import summary

SKIPPED = "skipped_updates_in_a_row"
STOPPED_BY = "stopped_by"  # the sentence of a stop rule
STOPPED = "early_stopped"  # a trainer's word that what it was to reach is reached
MOST_SKIPPED = 3
RECENT = 20        # iterations that the time left is guessed from
LOG_SECONDS = 10.0

# a loop inside another one's body belongs to the outer run: it has no folder of its own
_running: contextvars.ContextVar[Session | None] = contextvars.ContextVar("posttrain_session", default=None)


class Session(Steered):
    """``with Session(...) as s: while not s.done: s.advance(policy after one more iteration, its images)``.

    policy: any value with ``state()``, ``with_state(tensors, meta)`` and ``metrics``; it is never changed, ``advance``
    takes its successor. iteration: iterations finished. tell(kind, **data): live events. cancelled: the exceptions that
    mean a cancel; paused: those that mean that something outside is missing for the moment; check_cancelled raises one of the
    former, and is asked while the user has paused the run. workflow: as the page draws it, for a later look. ask: how
    a run that has other settings shall be met, "" where nobody can be asked. However the block is left, the policy so far is
    saved, and the user is told where.
    """

    def __init__(self, root: Path, plan: RunPlan, policy: Any, settings: dict, tell: Callable[..., None], *,
                 cancelled: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
                 paused: tuple[type[BaseException], ...] = (),
                 plain: Callable[[str], str] = str, defaults: dict | None = None,
                 check_cancelled: Callable[[], None] = lambda: None, workflow: dict | None = None,
                 ask: Callable[[SettingsChanged], str] = lambda changed: ""):
        for needed in ("state", "with_state", "metrics"):
            if not hasattr(policy, needed):
                raise TypeError(f"policy: a loop carries a policy, but it was given a {type(policy).__name__}; connect "
                                "Create Policy")
        self.root, self.plan, self.policy, self.settings = Path(root), plan, policy, settings
        self.iteration, self.summary, self._ended, self._why, self._show_now = 0, "", False, "", False
        self.run: Any = None  # a Run, where it has a folder of its own
        self.said: set[str] = set()
        self._tell, self._cancelled, self._paused, self._plain = tell, cancelled, paused, plain
        self._defaults, self._check_cancelled, self._workflow, self._ask = defaults, check_cancelled, workflow, ask
        self._room = room_of(policy)
        self._steering = Steering(self.root / plan.run_name)
        self._notices, self._stopping = Notices(), Stopping(())
        self._held_out: HeldOutCurve | None = None
        self._result: Any = None
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._logged = self._clock = time.monotonic()

    @property
    def done(self) -> bool:
        return self._ended or self.iteration >= self.plan.iterations

    @property
    def seconds_left(self) -> float:
        mean = sum(self._recent) / len(self._recent) if self._recent else 0.0
        left = max(0, self.plan.iterations - self.iteration)
        measured = self._held_out.seconds / self._held_out.every if self._held_out is not None else 0.0
        return (mean + measured) * left

    def __enter__(self) -> Session:
        if _running.get() is None:
            self.run = open_on_all(self.root, self.plan.run_name, self._opened)
            try:
                self._resume()
            except BaseException:
                self.run.close()
                raise
        elif self.plan.evaluation is not None:
            raise ValueError("evaluation: this loop runs inside another one and has no curve of its own; connect it to the "
                             "outer Loop Start")
        self._token = _running.set(self)
        self._begin()
        self._clock = time.monotonic()
        return self

    def advance(self, policy: Any, images: torch.Tensor | None = None) -> None:
        """One more iteration is done: ``policy`` came out of it, and ``images`` [N, H, W, 3] were made in it.

        Raises TrainingStopped where the policy has not been updated for three iterations in a row.
        """
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        self.policy, self.iteration = policy, self.iteration + 1
        self._recent.append(seconds)
        metrics = dict(policy.metrics) | self._gauged()
        self._ended = bool(metrics.get(STOPPED))
        if self.run is None:
            return
        self._check_folder(self.run)
        self._note_numbers(getattr(policy, "numbers", {}))
        self._note_room()
        self._show_now, stops = ranks.of_first("orders", lambda: (self._steering.take(SAMPLE), self._steering.take(STOP)))
        if stops:
            self._stop(self.run, "you have ended it", {"why": "you"})
        if images is not None:
            metrics |= picture_stats(images) | {"images": len(images)}
        try:
            metrics |= self._measured()
        except BaseException:  # a cancel in the middle of it costs the measurement, not the iteration
            self._book(metrics, images, seconds, met=False)
            raise
        self._book(metrics, images, seconds)
        self._obey()

    def _book(self, metrics: dict, images: torch.Tensor | None, seconds: float, met: bool = True) -> None:
        """Writes down what an iteration gave, and tells the page and the log. met: other ranks come here, too."""
        point = {"iteration": self.iteration, "seconds": seconds, **metrics}
        alarms = self._alarms.look(point)
        ended = self._stopping.look(point, [alarm.text for alarm in alarms])
        if ended := ranks.of_first("stop rules", lambda: ended) if met else ended:
            self._stop(self.run, ended, self._stopping.why | for_page(alarms))
        self._attempt("metrics", lambda: self.run.record(self.iteration, seconds, metrics))
        if self.iteration % self.plan.save_every == 0 and not self.done:
            self._attempt("state", self._save)
        self._tell("iteration", iteration=self.iteration, iterations=self.plan.iterations, metrics=metrics,
                   seconds=round(seconds, 4), seconds_left=round(self.seconds_left, 1))
        if images is not None and self._samples_due():
            self._attempt("samples", lambda: self._save_samples(images, self.iteration))
        for alarm in [*self._notices.look(point), *alarms]:
            self.message(alarm.text, "warning", alarm=alarm.kind, values=alarm.values)
        if missing := self._stopping.missing():
            self.message(missing, "warning", values={"what": "no number", **self._stopping.missed})
        self._log(metrics)
        if metrics.get(SKIPPED, 0) >= MOST_SKIPPED:
            raise TrainingStopped(
                f"{MOST_SKIPPED} updates in a row were skipped: the reward, the loss or the new weights were not a "
                f"number. The weights are as before. Look at the reward on such images, or lower the learning rate; then queue "
                "again.")

    def _measured(self) -> dict[str, float]:
        """The numbers of the held-out prompts where they are due, else none."""
        held_out = self._held_out
        if held_out is None or not (self._show_now or held_out.due(self.iteration, self.done)):
            return {}
        numbers, pictures, said = held_out.measure(self.policy, self.iteration)
        if said:
            self.message(said)
        for found in held_out.changed:
            self.message(found.text, "warning", alarm=found.alarm, values=found.values)
        self._attempt("best policy", lambda: held_out.keep(self.policy))
        for iteration, made in pictures.items():
            self._attempt("held-out pictures", lambda: self._save_samples(made, iteration, HELD_OUT))
            self._attempt("pictures to compare", lambda: keep_compared(self.run.folder, iteration, made, held_out.texts))
        self._clock = time.monotonic()  # it is no part of the next iteration
        self._watch.take()
        return numbers

    @property
    def result(self) -> Any:
        """The policy that the run hands out once it is done: the last, or the best on held-out prompts."""
        return self.policy if self._result is None else self._result

    def _stop(self, run: Run, why: str, told: dict) -> None:
        """Ends the training after this iteration, and says so on the page, in the run's folder and on the policy."""
        self._ended, self._why = True, why
        self._attempt("end", lambda: run.update(stopped=why))
        told = {"what": "ends", "iteration": self.iteration, "iterations_in_all": self.plan.iterations, **told}
        self.message(f"The training ends after iteration {self.iteration} of {self.plan.iterations}: {why}.", values=told)
        policy: Any = self.policy
        if hasattr(policy, "__dataclass_fields__"):
            self.policy = replace(policy, metrics={**policy.metrics, STOPPED_BY: why})

    def __exit__(self, kind, error, trace) -> None:
        _running.reset(self._token)
        self._end()
        if self.run is None:
            return
        try:
            failed = self._save_rest()
            status = "error" if kind or failed else "done"
            best = ""
            if self._held_out is not None and kind is None:
                self._result, best = self._held_out.handed_out(self.policy)
            for name, kinds in (("cancelled", self._cancelled), ("paused", self._paused)):
                if kind is not None and issubclass(kind, kinds):
                    status = name
            self.summary = "\n".join(filter(None, (self._summarise(status, failed), best, self._memory_advice(error))))
            if status in ("error", "paused"):
                self._write_down(str(error or failed), "error", {})
            self._attempt("status", lambda: self.run.update(status=status, iteration=self.iteration))
            self._tell("end", status=status, iteration=self.iteration, iterations=self.plan.iterations,
                       text=self.summary)
            logging.info("PostTrain: %s", self.summary)
        finally:
            self.run.close()
        if failed is not None and kind is None:
            raise failed

    def _resume(self) -> None:
        saved = self.run.load()
        if saved is not None:
            self.iteration, tensors, meta = saved
            with torch.inference_mode(False):
                self.policy = self.policy.with_state(tensors, meta)
            self._ended = bool(self.policy.metrics.get(STOPPED)) and self.plan.when_exists != CONTINUE_CHANGED
        self._room = room_of(self.policy)
        self._take_up_numbers()
        self._keep_workflow()
        points = self.run.points()
        self._before, self._alarms = self.iteration, Alarms(points)
        self._stopping = Stopping(self.plan.stop, points)
        if self.plan.evaluation is not None:
            self._held_out = HeldOutCurve(self.plan.evaluation, self.run.folder, self.iteration)
        self._ended = self._ended or bool(self._stopping.ended)
        self.run.update(status="running", iteration=self.iteration, iterations=self.plan.iterations)
        self._tell("start", iteration=self.iteration, iterations=self.plan.iterations)
        for note in self.run.notes:
            self.message(note)

    def message(self, text: str, level: str = "info", **for_the_page) -> None:
        """A sentence for the user, on the page and in the log."""
        logging.log(logging.WARNING if level == "warning" else logging.INFO, "PostTrain: %s: %s", self.run.name, text)
        self._tell("message", text=text, level=level, iteration=self.iteration, **for_the_page)
        if self.run is not None:
            self._write_down(text, level, for_the_page)

    def _samples_due(self) -> bool:
        every = self.plan.samples_every
        return self._show_now or every > 0 and (self.iteration % every == 0 or self.done or self.iteration == 1)

    def _save(self) -> None:
        self.run.save(self.iteration, *self.policy.state(), self.plan.save_every)

    def _save_rest(self) -> SaveFailed | None:
        """Saves what no checkpoint holds yet; a failure is handed back, not raised."""
        if self.iteration <= self.run.saved:
            return None
        try:
            self._save()
            return None
        except SaveFailed as error:
            failed = SaveFailed(f"{error}. Until ComfyUI is closed the state is kept in memory: make room and queue "
                                "again")
            self.message(f"{failed}.", "warning")
            return failed

    def _save_samples(self, images: torch.Tensor, iteration: int, kind: str = TRAINED) -> None:
        path = self.run.save_samples(images, iteration, kind)
        self._tell("samples", iteration=iteration, file=path.name, held_out=kind == HELD_OUT)

    def _attempt(self, what: str, write: Callable[[], Any]) -> None:
        """Books something; a disk that does not take it must not cost the training."""
        try:
            write()
        except (OSError, SaveFailed, ValueError) as error:
            self.message(f"The {what} of iteration {self.iteration} could not be written ({error}). The training goes "
                         "on.", "warning")

    def _summarise(self, status: str, failed: SaveFailed | None) -> str:
        ended = ""
        if self._ended:
            ended = self._why or self._stopping.ended or "the reward that it was to reach is reached"
        return summary(self.run.name, self.run.folder, status, (self._before, self.iteration, self.plan.iterations),
                       ended=ended, nothing=self._notices.nothing_learned(), failed=failed)

    def _log(self, metrics: dict) -> None:
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            reward = f", reward {metrics['reward_mean']:.4g}" if "reward_mean" in metrics else ""
            logging.info("PostTrain: %s: iteration %d of %d%s, %.1f minutes left", self.run.name, self.iteration,
                         self.plan.iterations, reward, self.seconds_left / 60)
