"""What the page sees of a run: live events while it trains, and routes that read its folder afterwards.

Events are broadcast under "posttrain.<kind>", each with "run" and "node" (the node that drives the run):
start(iteration, iterations) | iteration(iteration, iterations, metrics, seconds, seconds_left) |
samples(iteration, file; held_out of pictures of held-out prompts) |
state(status: "paused" or "running", iteration) |
message(text, level, iteration; of an alarm also "alarm", its kind, and its values) |
error(text; node = the node that failed) | end(status, iteration, iterations, text).
Routes: GET /posttrain/runs | /posttrain/runs/{run}?since=N | /posttrain/runs/{run}/samples/{file}.
"""
from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from ..privacy import without_places
from .server import add_routes, answering, page_server

LONGEST = 4000  # characters of a sentence
MESSAGES = 20  # sentences kept for a page that is opened later

_lock = threading.Lock()
_live: dict[str, dict] = {}
_listeners: list[Callable[[str, dict], None]] = []


def emit(kind: str, run: str, node: str | None, **data) -> None:
    """Sends one event to every open page and remembers the run's state; any thread may call. No server: no event."""
    event = {"run": run, "node": node, **_plain(data)}
    if isinstance(event.get("text"), str):  # whoever reaches the server can read it
        event["text"] = without_places(event["text"])[:LONGEST]
    with _lock:
        _remember(kind, event)
    server = page_server()
    if server is not None:
        server.send_sync(f"posttrain.{kind}", event)
    for hear in _listeners:
        hear(kind, event)


def listen(hear: Callable[[str, dict], None]) -> None:
    """hear: called with each event's kind and data, by any thread."""
    _listeners.append(hear)


def live_state(run: str) -> dict:
    """What this process knows of a run: node, status, iteration, iterations, seconds_left, messages. Empty: nothing."""
    with _lock:
        state = _live.get(run)
        return {} if state is None else {**state, "messages": list(state["messages"])}


def forget(run: str) -> None:
    """A run of that name is not there any more."""
    with _lock:
        _live.pop(run, None)


def _remember(kind: str, event: dict) -> None:
    state = _live.setdefault(event["run"], {"messages": deque(maxlen=MESSAGES)})
    if kind == "start":
        state["messages"].clear()
        state |= {"status": "running", "seconds_left": None}
    if kind in ("end", "state"):
        state |= {"status": event.get("status"), "seconds_left": None}
    if kind in ("message", "error") and event.get("text"):
        state["messages"].append({"text": event["text"], "level": event.get("level", kind),
                                  **{key: event[key] for key in ("alarm", "values") if key in event}})
    if kind != "error" and event["node"] is not None:  # the node of an error is the one that failed, not the loop's
        state["node"] = str(event["node"])
    state |= {key: event[key] for key in ("iteration", "iterations", "seconds_left") if key in event}


def _plain(value):
    """JSON knows no NaN and no infinity: one of them would make the page drop the whole message."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def register_routes(routes) -> None:
    """Adds the three GET routes to a server's route table."""
    from aiohttp import web

    from . import run_reader

    def answer(read):
        # folders may be large or on a slow drive: never in the event loop
        return answering(partial(asyncio.to_thread, read), "the run's folder cannot be read")

    def one_run(request):
        return run_reader.read_run(request.match_info["run"], request.query.get("since", "0"), live_state)

    def sample(request):
        path = run_reader.sample_path(request.match_info["run"], request.match_info["file"])
        return web.FileResponse(path, headers={"Cache-Control": "max-age=31536000, immutable"})

    routes.get("/posttrain/runs")(answer(lambda request: run_reader.list_runs(live_state)))
    routes.get("/posttrain/runs/{run}")(answer(one_run))
    routes.get("/posttrain/runs/{run}/samples/{file}")(answer(sample))


add_routes(register_routes)
