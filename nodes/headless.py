"""A workflow without page or server: in one process, or shared by the ranks that a launcher has started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from ..rewards.base import ranks
from ..rewards.base.words import shown
from . import machines, meeting
from .rewards import judging, lending  # noqa: F401  judging is for headless.py

OK, ERROR, WRONG, PAUSED, STOPPED = 0, 1, 2, 3, 130
CODES = {ranks.DONE: OK, ranks.FAILED: ERROR, ranks.PAUSED: PAUSED, ranks.CANCELLED: STOPPED}
CLIENT = "headless"
RESTARTS = "TORCHELASTIC_RESTART_COUNT"  # of launchers that say how often they have started all processes again


class WrongWorkflow(ValueError):
    """The file cannot be run."""


class Headless:
    """A ComfyUI that has started and listens nowhere. loop, server: its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server):
        self._loop, self._server = loop, server

    def run_file(
        self,
        path: Path,
        quiet: bool = False,
        share_weights: bool = False,
        again: bool = False,
        stopped: Callable[[], bool] = bool,
        samplers: Mapping[str, Callable] | None = None,
        judges: Mapping[str, Callable] | None = None,
        page: str = "",
    ) -> int:
        """Runs a workflow in API format. share_weights: several processes share out the network's weights, and not its work;
        again: a launcher starts it once more; stopped: asked all the time, True is a cancel; samplers: ComfyUIs that only sample
        for this one, by name (trainers/servers/client.py says how they are asked); judges: processes that hold the
        learned rewards, by name (rewards/lending.py); page: address of a ComfyUI whose page shows the run. -> the exit code."""
        from ..trainers.servers import actors

        actors.lend(dict(samplers or {}))
        prompt, fault = read(path)
        start = meeting.join_ranks(again or restarted())
        try:
            far, unseen = self._far_page(page) if ranks.number() == 0 else (contextlib.nullcontext(), "")
            fault = fault or ("" if start.again else unseen)
            if words := machines.fault(prompt, fault):
                print(words, file=sys.stderr)
                return WRONG
            start.begin()
            if start.again:
                going_on(prompt)
            if share_weights:
                ranks.share_weights()
            lending.lend(judges or {}, prompt)
            with far:
                return self._run(prompt, quiet, stopped)
        finally:
            if ranks.launched():
                import torch

                torch.distributed.destroy_process_group()

    def _far_page(self, address: str) -> tuple[contextlib.AbstractContextManager, str]:
        """What shows the run there, and why it cannot at the moment."""
        from .page.far_page import FarPage

        if not address:
            return contextlib.nullcontext(), ""
        try:
            far = FarPage(address, cancel)
            return far, far.fault()
        except ValueError as error:
            return contextlib.nullcontext(), str(error)

    def _run(self, prompt: dict, quiet: bool, stopped: Callable[[], bool]) -> int:
        if not quiet:
            self._server.sockets[CLIENT] = ProgressLine()
        self._server.client_id = CLIENT
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, cancel)
        ended: list[int] = []
        work = threading.Thread(target=lambda: ended.append(self._work(prompt)), name="workflow")
        self._loop.run_until_complete(self._until(work, stopped))
        return ended[0] if ended else ERROR

    async def _until(self, work: threading.Thread, stopped: Callable[[], bool]) -> None:
        """Hands out the server's messages while the workflow runs in a thread of its own, as ComfyUI does it."""
        messages = asyncio.ensure_future(self._server.publish_loop())
        work.start()
        told = False
        while work.is_alive():
            await asyncio.sleep(0.05)
            if not told and stopped():
                told = True
                cancel()
        messages.cancel()

    def _work(self, prompt: dict) -> int:
        state, why = ranks.FAILED, "it could not start"
        try:
            state, why = asyncio.run(self._execute(prompt))
            code = CODES[state]
        except WrongWorkflow as error:
            print(error, file=sys.stderr)
            code = WRONG
        except BaseException:
            logging.exception("PostTrain: the workflow could not be run")
            code = ERROR
        ranks.leave(state, why)
        return code

    async def _execute(self, prompt: dict) -> tuple[str, str]:
        """-> how it ended, and why."""
        import execution

        from .loop.runner import new_executor

        name = str(uuid.uuid4())
        fine, error, outputs, node_errors = await execution.validate_prompt(name, prompt, None)
        if not fine or node_errors:
            raise WrongWorkflow(in_words(error, node_errors))
        executor = new_executor(self._server)
        await executor.execute_async(prompt, name, {"client_id": CLIENT}, outputs)
        return ending(executor)


def ending(executor) -> tuple[str, str]:
    """How an executor's run ended, and why."""
    if executor.success:
        return ranks.DONE, "the workflow's end"
    event, data = next(
        (m for m in reversed(executor.status_messages) if m[0] in ("execution_interrupted", "execution_error")),
        ("execution_error", {}),
    )
    kind = str(data.get("exception_type", ""))
    if event == "execution_interrupted" or kind.endswith("RankCancelled"):
        return ranks.CANCELLED, "cancelled"
    words = str(data.get("exception_message", "")).strip()
    logging.error("PostTrain: %s (%s): %s", data.get("node_type"), data.get("node_id"), words)
    paused = kind.endswith(("RewardUnavailable", "BodyPaused", "RankPaused"))
    return (ranks.PAUSED if paused else ranks.FAILED), words.splitlines()[0] if words else kind


def read(path: Path) -> tuple[dict, str]:
    """A workflow, and what is wrong with its file: several processes say that to each other first."""
    try:
        return read_workflow(path), ""
    except WrongWorkflow as error:
        return {}, str(error)


def read_workflow(path: Path) -> dict:
    """The nodes of a workflow in API format. Raises WrongWorkflow in words."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongWorkflow(f"{path} cannot be read as JSON ({error}).") from None
    prompt = prompt.get("prompt", prompt) if isinstance(prompt, dict) else None
    if isinstance(prompt, dict) and isinstance(prompt.get("nodes"), list):
        raise WrongWorkflow(
            f"{path} is a workflow as the page draws it; in the page's menu choose Export (API), and give that file."
        )
    if (
        not prompt
        or not isinstance(prompt, dict)
        or not all(isinstance(n, dict) and "class_type" in n for n in prompt.values())
    ):
        raise WrongWorkflow(f"{path} holds no workflow in API format; in the page's menu choose Export (API).")
    return prompt


def restarted() -> bool:
    """Whether the launcher says that it has started all processes before."""
    return int(os.environ.get(RESTARTS, "0")) > 0


def going_on(prompt: dict) -> None:
    """A launcher started all processes again: what "start over" began goes on."""
    from ..trainers.run import CONTINUE_CHANGED, START_OVER

    for node in prompt.values():
        if node.get("inputs", {}).get("when_run_exists") == START_OVER:
            node["inputs"]["when_run_exists"] = CONTINUE_CHANGED


def in_words(error: dict | None, node_errors: dict) -> str:
    """What ComfyUI's validation found, a line for each node."""
    lines = [f"The workflow is wrong: {(error or {}).get('message', '')} {(error or {}).get('details', '')}".strip()]
    for node, found in (node_errors or {}).items():
        lines += [
            f"  {found.get('class_type')} (node {node}): {shown(each.get('message', ''))} {shown(each.get('details', ''))}"
            for each in found.get("errors", [])
        ]
    return "\n".join(lines)


def cancel(*_) -> None:
    """As Cancel on the page: the training ends at its next step, and saves."""
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()


class ProgressLine:
    """Stands where a page's connection would be, and writes one line that changes."""

    def __init__(self, out=None):
        self._out = sys.stderr if out is None else out
        self._run, self._step = "", ""

    async def send_json(self, message: dict) -> None:
        kind, data = message.get("type", ""), message.get("data") or {}
        if kind == "posttrain.iteration":
            metrics = data.get("metrics", {})
            reward = f", reward {metrics['reward_mean']:.4g}" if isinstance(metrics.get("reward_mean"), float) else ""
            left = data.get("seconds_left", 0) / 60
            self._run = (
                f"{data.get('run', '')}: {data.get('iteration')} of {data.get('iterations')}{reward}, {left:.1f} min left"
            )
        elif kind == "progress":
            self._step = f"{data.get('value')}/{data.get('max')}"
        else:
            return
        if self._out.isatty():
            self._out.write(f"\r\x1b[K{self._run} {self._step}")
        elif kind == "posttrain.iteration":
            self._out.write(f"{self._run}\n")
        self._out.flush()

    async def send_bytes(self, _: bytes) -> None:
        """Previews are for eyes."""
