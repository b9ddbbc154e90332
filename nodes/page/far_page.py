"""The page of another ComfyUI that shows, steers and rates for the trainings of this process: headless.py --page ADDRESS.

This process calls there and is never called (elsewhere.py has the routes). One thread tells what happens: first what is new in
the run's folder, then the events that speak of it, and the questions to a person that are open. Another one asks for orders.
Where the page is out of reach the training goes on; all is told once it is back.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ...rewards.base.words import shown
from ...rewards.vlm.server import opener, read_before
from ...trainers.run.aside import read_config
from ...trainers.run.steering import state_of, steering_of
from ..access import KEY_VARIABLE, page_key
from .copies import GROWING, copied_files
from .elsewhere import HEADER, HOLD
from .live import listen, live_state
from .rating import open_questions, question_of
from .run_reader import run_folder
from .server import show_elsewhere

EXAMPLE = "http://192.168.1.5:8188"
LATEST, LEAST, TIMEOUT, AFTER_A_FAULT = 1.0, 0.2, 30.0, 3.0  # seconds: rounds come so often, and not more often
LAST_TRIES = 3
MOST_EVENTS = 2000  # that wait for a page; it reads what it has missed from the run's folder
TAIL = 64  # bytes by which a file is known to go on where it ended
LARGEST = 1 << 20  # bytes of an answer


class Unheard(OSError):
    """The page's ComfyUI does not answer."""


class Denied(ValueError):
    """It answers, and takes nothing from here."""


class Missing(LookupError):
    """It lacks what this goes on from."""


class FarPage:
    """``with FarPage(address, cancel) as page`` around the work. cancel: called where the user cancels there. ValueError where
    the address or the key is none."""

    def __init__(self, address: str, cancel: Callable[[], None]):
        from ...rewards.vlm.address import origin_of

        origin_of(address, EXAMPLE)
        key = page_key()
        if not key:
            raise ValueError(f"--page: set the environment variable {KEY_VARIABLE}, to the same as on the page's ComfyUI")
        self.address, self._key, self._cancel = address.rstrip("/"), key, cancel
        self._place, self._host, self._known = uuid.uuid4().hex, socket.gethostname(), ""
        self._events: deque[dict] = deque(maxlen=MOST_EVENTS)
        self._lock = threading.Lock()
        self._news, self._over, self._silent = threading.Event(), threading.Event(), False
        self._folders: dict[str, Sent] = {}

    def fault(self) -> str:
        """Why it cannot show anything, "" where it can."""
        try:
            self._say(False)
        except (OSError, ValueError, LookupError) as error:
            return f"--page {self.address}: {error}"
        return ""

    def __enter__(self) -> FarPage:
        listen(self._hear)
        show_elsewhere()
        self._telling = threading.Thread(target=self._tell, name="page", daemon=True)
        self._telling.start()
        threading.Thread(target=self._obey, name="page's orders", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._news.set()
        self._telling.join()

    def _hear(self, kind: str, event: Mapping) -> None:
        with self._lock:
            self._events.append({"kind": kind, **event})
        self._news.set()

    def _tell(self) -> None:
        tries = 0
        while tries < LAST_TRIES:
            self._news.wait(LATEST)
            self._news.clear()
            over = self._over.is_set()
            try:
                whole = self._round()
                self._note("")
                if over and whole:
                    self._say(True)
                    return
            except (OSError, ValueError, LookupError) as error:
                self._note(str(error))
                self._over.wait(AFTER_A_FAULT)
            tries += over
            time.sleep(LEAST)

    def _note(self, fault: str) -> None:
        """Said when that changes."""
        if bool(fault) != self._silent:
            self._silent = bool(fault)
            words = f"does not show this training at the moment ({fault}); it goes on" if fault else "shows it again"
            print(f"PostTrain: the page at {self.address} {words}", file=sys.stderr, flush=True)

    def _round(self) -> bool:
        """-> whether the page has all; one that was started anew in the middle of it may have nothing."""
        with self._lock:
            events = list(self._events)
        for run in {event["run"] for event in events} - self._folders.keys():
            with suppress(LookupError):  # one that failed before it had a folder
                self._folders[run] = Sent(run_folder(run))
        known = self._say(False) if not self._known else self._known
        for sent in self._folders.values():
            sent.send(self._file)
        whole = self._say(False, events) == known
        for sent in () if whole else self._folders.values():
            sent.forget()
        told = set(map(id, events))
        with self._lock:
            self._events = deque((event for event in self._events if id(event) not in told), MOST_EVENTS)
        return whole

    def _say(self, over: bool, events: list[dict] = []) -> str:  # noqa: B006  it is only read
        """-> what the page's ComfyUI calls this place; another name once that was started anew."""
        runs = {
            run: {"id": sent.id, "live": live_state(run), "steering": state_of(sent.folder)}
            for run, sent in self._folders.items()
            if sent.id
        }
        questions = [question.plain() for question in open_questions()]
        told = {"host": self._host, "runs": runs, "events": events, "questions": questions, "over": over}
        answer = self._ask("say", json.dumps(told).encode())
        self._known = str(answer.get("known", ""))
        return self._known

    def _file(self, sent: Sent, place: str, content: bytes, start: int, gone: bool) -> None:
        about = {"run": sent.folder.name, "id": sent.id, "host": self._host, "file": place, "from": start}
        self._ask(f"file?{urlencode(about | ({'gone': 1} if gone else {}))}", content)

    def _obey(self) -> None:
        answers: list[dict] = []
        while not self._over.is_set():
            try:
                orders = self._ask("hear", json.dumps({"answers": answers}).encode()).get("orders", [])
                answers = [{"id": order.get("id"), **self._answered(order)} for order in orders]
            except (OSError, ValueError, LookupError):
                self._over.wait(AFTER_A_FAULT)  # the other thread says so

    def _answered(self, order: dict) -> dict:
        try:
            return {"result": self._done(order)}
        except LookupError as error:
            return {"error": str(error.args[0] if error.args else error), "missing": True}
        except (ValueError, TypeError, OSError) as error:
            return {"error": str(error)}
        finally:
            self._news.set()

    def _done(self, order: dict) -> Any:
        """Does what somebody at the page asks for. -> the answer, for JSON."""
        if order.get("do") == "rate":
            return rated(question_of(order["question"]), order)
        steering = steering_of(run_folder(order["run"]))
        if order["what"] == "cancel":
            self._cancel()
        else:
            steering.order(order["what"], order.get("value"))
        return steering.plain()

    def _ask(self, act: str, content: bytes) -> dict:
        url = f"{self.address}/posttrain/elsewhere/{self._place}/{act}"
        request = urllib.request.Request(url, content, {"Content-Type": "application/json", HEADER: self._key})
        deadline = time.monotonic() + TIMEOUT + HOLD
        try:
            with opener(url).open(request, timeout=TIMEOUT + HOLD) as response:
                answer = json.loads(read_before(response, deadline, LARGEST))
                return answer if isinstance(answer, dict) else {}
        except urllib.error.HTTPError as error:
            raise refusal(error) from None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            reason = getattr(error, "reason", error)
            raise Unheard(f"no ComfyUI answers there ({shown(str(reason), 200)})") from None


def refusal(error: urllib.error.HTTPError) -> Exception:
    """What a ComfyUI says no with, as an exception with words."""
    with error:
        try:
            words = str(json.loads(error.read(LARGEST))["error"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            words = ""
    if not words:
        return Denied(f"what is there answers {error.code}: it has to be a ComfyUI with this pack")
    return Missing(words) if error.code == 404 else Denied(shown(words, 500))


def rated(question, order: dict) -> Any:
    """One act of whoever rates. Errors as of the question."""
    act, client = order["act"], str(order.get("client", ""))
    if act == "image":
        picture = question.image(int(order["row"]))
        return None if picture is None else base64.b64encode(picture).decode()
    if act == "take":
        return question.take(client, order.get("done"))
    if act == "finish":
        return question.finish(order["how"])
    if act == "tie":
        question.tie(int(order["number"]), client)
    else:
        question.vote({int(row): vote for row, vote in order["votes"].items()}, client)
    return question.plain()


class Sent:
    """A run's folder, and what of it has gone to the page."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.id = str((read_config(folder) or {}).get("id", ""))
        self._files: dict[str, tuple[tuple[int, int], bytes]] = {}  # its stamp, and its last bytes where it grows

    def forget(self) -> None:
        self._files.clear()

    def send(self, send: Callable[[Sent, str, bytes, int, bool], None]) -> None:
        """What has changed since. A page that lacks the beginning of a file gets it whole the next time."""
        now = str((read_config(self.folder) or {}).get("id", self.id))
        if now != self.id:  # it has gone back to an earlier iteration, or was started over: another copy
            self.id = now
            self.forget()
        there = copied_files(self.folder) if self.id else []
        for place in self._files.keys() - set(there):
            send(self, place, b"", 0, True)
            del self._files[place]
        for place in there:
            with suppress(FileNotFoundError):
                self._send(place, send)

    def _send(self, place: str, send: Callable[[Sent, str, bytes, int, bool], None]) -> None:
        path = self.folder / place
        before, tail = self._files.get(place, ((0, 0), b""))
        told = path.stat()
        stamp = told.st_mtime_ns, told.st_size
        if stamp == before:
            return
        content, start = path.read_bytes(), 0
        if tail and content[before[1] - len(tail) : before[1]] == tail:
            start = before[1]
        try:
            send(self, place, content[start:], start, False)
        except Missing:
            self._files.pop(place, None)
            return
        size = len(content)
        self._files[place] = (stamp[0], size), content[-TAIL:] if place in GROWING else b""
