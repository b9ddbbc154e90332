"""A graph that another ComfyUI runs: given to it, waited for, taken back."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ...rewards.base.words import shown
from .client import WORDS, Client, Lost, Unfit, graph_errors

HOLD = 30.0  # seconds after which one that says by itself when it has finished is asked whether it still has the graph


def run(client: Client, graph: dict, stopped: Callable[[], bool], seconds: float, rest: float = 0.05) -> dict[str, dict]:
    """What the output nodes of a graph say, once it has run there. Raises Lost or Unfit; with ``stopped`` or after ``seconds``
    the graph is taken back."""
    answer = client.ask("/prompt", {"prompt": graph, "client_id": uuid.uuid4().hex})
    try:
        name = str(answer["prompt_id"])
    except (KeyError, TypeError) as error:
        raise Lost("it takes no workflow, as ComfyUI does") from error
    if answer.get("node_errors"):
        take_back(client, name)
        raise Unfit(f"it cannot run the graph: {graph_errors(json.dumps(answer))}")
    try:
        return _wait(client, name, stopped, time.monotonic() + seconds, rest)
    except BaseException:
        take_back(client, name)
        raise


def _wait(client: Client, name: str, stopped: Callable[[], bool], deadline: float, rest: float) -> dict[str, dict]:
    missed = 0
    while not stopped():
        if time.monotonic() > deadline:
            raise Lost("it did not finish a group in time")
        ask = partial(client.history, name, stopped, min(HOLD, deadline - time.monotonic()))
        entry = (_patiently(ask) or {}).get(name)
        if entry is not None:
            return outputs_of(entry)
        # one that was restarted has forgotten what it was given
        missed = 0 if _is_queued(client, name) else missed + 1
        if missed > 1:
            raise Lost("it has lost the work that it was given; it was restarted, or its queue was cleared")
        time.sleep(rest)
        rest = min(1.0, rest * 1.2)
    raise Lost("it was told to stop")


def _patiently(ask: Callable[[], Any], tries: int = 3) -> Any:
    """An answer that may take a second try: one packet lost on the way loses no server."""
    for left in reversed(range(tries)):
        try:
            return ask()
        except Lost:
            if not left:
                raise
            time.sleep(0.5)
    return None


def _is_queued(client: Client, name: str) -> bool:
    queue = _patiently(lambda: client.ask("/queue"))
    try:
        return any(item[1] == name for key in ("queue_running", "queue_pending") for item in queue[key])
    except (KeyError, TypeError, IndexError) as error:
        raise Lost("what it says of its queue is not what ComfyUI says") from error


def outputs_of(entry: dict) -> dict[str, dict]:
    """Of a finished graph. Raises Lost with the server's words where it failed."""
    try:
        status = entry["status"]
        if status["status_str"] == "success":
            return dict(entry["outputs"])
        failed = [data for kind, data in status["messages"] if kind == "execution_error"]
        words = f"{failed[-1]['node_type']}: {failed[-1]['exception_message']}" if failed else "the work was interrupted there"
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Lost("what it says of its work is not what ComfyUI says") from error
    raise Lost(f"it failed: {shown(words.strip(), WORDS)}")


def take_back(client: Client, name: str) -> None:
    """Work that nobody waits for any more leaves the server, as well as that goes."""
    client = replace(client, timeout=min(client.timeout, 5.0))
    with contextlib.suppress(Lost, Unfit, KeyError, TypeError, IndexError):
        client.ask("/queue", {"delete": [name]})
        # older servers interrupt whatever runs
        if any(item[1] == name for item in client.ask("/queue")["queue_running"]):
            client.ask("/interrupt", {"prompt_id": name})
