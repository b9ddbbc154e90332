"""Trainings of other processes, on whatever machine, that this ComfyUI's page shows, steers and rates for.

The process that trains calls here, and nobody calls there: headless.py --page ADDRESS (far_page.py). It may, where it shows the
key that the user has given to both (access.page_key), in the header X-PostTrain-Key:
POST /posttrain/elsewhere/{place}/say {"host", "runs": {run: {"id", "live", "steering"}}, "events": [{"kind", "run", ...}],
    "questions": [as of /posttrain/ratings], "over"} -> {"known": of this place, another one after a restart}
POST /posttrain/elsewhere/{place}/file?run=&id=&host=&file=&from= with the file's bytes from there on; &gone=1: it is no more
POST /posttrain/elsewhere/{place}/hear {"answers": [{"id", "result" or "error", "missing"}]} -> {"orders": [{"id", "do", ...}]}
place: a name that the process has given to itself. An order is asked for at once, and heard by a request that waits for one.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...rewards.base.words import shown
from ...trainers.run import RunInUse
from ...trainers.run.folder import LOCK
from ...trainers.run.lock import RunLock
from ...trainers.run.steering import Steering
from ..access import KEY_VARIABLE, page_key
from .copies import copy_folder, mark_of, take_away, write_part
from .far_question import FarQuestion
from .live import emit, live_state
from .rating import put_up, take_down
from .run_reader import runs_root
from .server import add_routes, answering, body_of

HEADER = "X-PostTrain-Key"
KINDS = ("start", "iteration", "samples", "state", "message", "error", "end")
NAME = re.compile(r"[0-9a-f]{32}")
HOLD, PATIENCE, SILENCE, LOOK = 5.0, 20.0, 30.0, 2.0  # seconds
MOST = 100  # places, the newest
UNDER_WAY = ("running", "paused")

_places: dict[str, Place] = {}


class FarSteering(Steering):
    """Of a run that another process trains: what is asked for is asked there."""

    def __init__(self, folder: Path, ask: Callable[[dict], Any]):
        super().__init__(folder)
        self._asks, self.told = ask, {}

    def order(self, what: str, value: float | None = None) -> None:
        self.told = self._asks({"do": "steer", "what": what, "value": value})

    def plain(self) -> dict:
        return {**self.told, "far": True}


class Copy:
    """A run of a place, and its copy here, which is locked while it is trained."""

    def __init__(self, folder: Path, id: str, ask: Callable[[dict], Any]):
        self.folder, self.id, self._ask = folder, id, ask
        self._steering: FarSteering | None = None
        self._lock: RunLock | None = None

    def tell(self, live: dict, steering: dict | None) -> None:
        """What the process that trains says of it; steering: None where it does not."""
        if steering is None:
            return self.close()
        if self._steering is None:
            with suppress(RunInUse):
                self._lock = RunLock(self.folder / LOCK, self.folder.name)
            self._steering = FarSteering(self.folder, self._ask)
            self._steering.__enter__()
            if live.get("status") in UNDER_WAY and live_state(self.folder.name).get("status") != live["status"]:
                self.emit("state", status=live["status"], iteration=live.get("iteration") or 0)
        self._steering.told = steering

    def emit(self, kind: str, **data) -> None:
        emit(kind, self.folder.name, None, **data)  # a node of this number is another one in this page's graph

    def close(self) -> None:
        if self._steering is not None:
            self._steering.__exit__()
            self._steering = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


class Place:
    """A process that trains elsewhere. Its threads ask and answer here; people's orders wait for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.known, self.heard, self.host = uuid.uuid4().hex, time.monotonic(), ""
        self._loop, self._news = loop, asyncio.Event()
        self._copies: dict[str, Copy] = {}
        self._questions: dict[str, FarQuestion] = {}
        self._orders: list[dict] = []
        self._waiting: dict[str, Future] = {}
        self._lock, self.closed = threading.Lock(), False
        self._watching = asyncio.ensure_future(self._watch())

    def say(self, told: dict) -> None:
        self.host = str(told["host"])
        for run, about in told["runs"].items():
            self._copy(run, about["id"]).tell(about["live"], about["steering"])
        for event in told["events"]:
            kind, copy = event["kind"], self._copies.get(event["run"])
            if kind in KINDS and copy is not None:
                copy.emit(kind, **{name: value for name, value in event.items() if name not in ("kind", "run", "node")})
        self._put_up(told["questions"])
        if told["over"]:
            self.close()

    def file(self, run: str, id: str, host: str, file: str, content: bytes, start: int, gone: bool) -> None:
        self.host = host
        folder = self._copy(run, id).folder
        if not mark_of(folder):
            return  # it is no copy: the training writes there itself
        take_away(folder, file) if gone else write_part(folder, file, content, start)

    def _copy(self, run: str, id: str) -> Copy:
        found = self._copies.get(run)
        if found is None or found.id != id or not found.folder.is_dir():
            folder = copy_folder(runs_root(), run, id, self.host)
            for place in list(_places.values()):  # a process that a launcher has started in the place of one that died
                place.leave(folder)
            if run in self._copies:
                self._copies[run].close()
            self._copies[run] = found = Copy(folder, id, lambda order: self.ask({**order, "run": run}))
        return found

    def leave(self, folder: Path) -> None:
        """It is another place's from here on."""
        for run in [run for run, copy in self._copies.items() if copy.folder == folder]:
            self._copies.pop(run).close()

    def _put_up(self, told: list[dict]) -> None:
        open_ = {str(each["id"]): each for each in told}
        for gone in self._questions.keys() - open_.keys():
            take_down(self._questions.pop(gone))
        for name, each in open_.items():
            if name in self._questions:
                self._questions[name].told = each
            else:
                self._questions[name] = FarQuestion(each, self.ask)
                put_up(self._questions[name])

    def ask(self, order: dict) -> Any:
        """What the process answers; waits for it. ValueError or LookupError where it refuses, or does not answer."""
        answer: Future = Future()
        with self._lock:
            name = uuid.uuid4().hex
            self._waiting[name] = answer
            self._orders.append({"id": name, **order})
        self._loop.call_soon_threadsafe(self._news.set)
        try:
            return answer.result(PATIENCE)
        except TimeoutError:
            raise LookupError(f"the training on {self.host} does not answer at the moment; try again later") from None
        finally:
            self._waiting.pop(name, None)

    async def orders(self, answers: list[dict]) -> list[dict]:
        """Takes answers; the next orders, as soon as there is one."""
        for each in answers:
            waiting = self._waiting.get(str(each.get("id")))
            if waiting is None or waiting.done():
                continue
            if "error" in each:
                waiting.set_exception((LookupError if each.get("missing") else ValueError)(str(each["error"])))
            else:
                waiting.set_result(each.get("result"))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), HOLD)
        self._news.clear()
        with self._lock:
            orders, self._orders = self._orders, []
        return orders

    async def _watch(self) -> None:
        """Closes it once nothing has been heard of it for long."""
        while not self.closed and time.monotonic() - self.heard < SILENCE:
            await asyncio.sleep(LOOK)
        if not self.closed:
            await asyncio.to_thread(self._lose)

    def _lose(self) -> None:
        words = (
            f"Nothing has been heard of the training on {self.host} for {SILENCE:g} seconds. If it still runs, it shows here "
            "again as soon as it reaches this page."
        )
        for copy in list(self._copies.values()):
            state = live_state(copy.folder.name)
            if state.get("status") in UNDER_WAY:
                copy.emit("message", text=words, level="warning", iteration=state.get("iteration") or 0)
                reached = {name: state.get(name) or 0 for name in ("iteration", "iterations")}
                copy.emit("end", status="stopped", text=words, **reached)
        self.close()

    def close(self) -> None:
        self.closed = True
        for waiting in list(self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(LookupError(f"the training on {self.host} has ended, or cannot be reached any more"))
        self._put_up([])
        for copy in list(self._copies.values()):
            copy.close()
        for name in [name for name, place in _places.items() if place is self]:
            _places.pop(name, None)


def place_of(name: str) -> Place:
    """The place of that name, a new one where there is none. In the event loop."""
    if not NAME.fullmatch(name):
        raise ValueError(f"place: {shown(name)} is no name that a training gives itself")
    if name not in _places:
        for oldest in list(_places)[: len(_places) + 1 - MOST]:
            _places[oldest].close()
        _places[name] = Place(asyncio.get_running_loop())
    _places[name].heard = time.monotonic()
    return _places[name]


def register_routes(routes) -> None:
    """Adds the three routes to a server's route table."""
    from aiohttp import web

    def keyed(act):
        async def checked(request):
            key = page_key()
            if not key:
                words = f"this ComfyUI shows no training elsewhere until its user sets a key ({KEY_VARIABLE}, docs/security.md)"
            elif not hmac.compare_digest(request.headers.get(HEADER, "").encode(), key.encode()):
                words = f"the key is not this ComfyUI's; {KEY_VARIABLE} has to be the same on both sides"
            else:
                return await act(place_of(request.match_info["place"]), request)
            return web.json_response({"error": words}, status=403)

        return answering(checked, "the copy of the run cannot be written")

    async def say(place, request):
        body = await body_of(request, host=str, runs=dict, events=list, questions=list)
        try:
            await asyncio.to_thread(place.say, {**body, "over": body.get("over") is True})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"what is said of a training has another form than here ({error}); use the same PostTrain on both "
                             "sides") from None  # fmt: skip
        return {"known": place.known}

    async def file(place, request):
        asked, content = request.query, await request.read()
        run, id, host, name = (asked.get(each, "") for each in ("run", "id", "host", "file"))
        start = asked.get("from", "0")
        if not re.fullmatch(r"\d{1,12}", start, re.ASCII):
            raise ValueError(f"from: {shown(start)} is no number of bytes")
        await asyncio.to_thread(place.file, run, id, host, name, content, int(start), "gone" in asked)
        return {}

    async def hear(place, request):
        body = await body_of(request, answers=list)
        return {"orders": await place.orders([each for each in body["answers"] if isinstance(each, dict)])}

    for name, act in (("say", say), ("file", file), ("hear", hear)):
        routes.post(f"/posttrain/elsewhere/{{place}}/{name}")(keyed(act))


add_routes(register_routes)
