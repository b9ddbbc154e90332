"""Somebody who answers the questions of Rate by Hand over the server's routes: for tests, proofs and headless use."""
from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from .host import Host, HostError


class Rater:
    """``with Rater(host, judge) as rater:`` answers every question.

    judge(images by row, [H, W, 3] in 0..1 each, sheet {"prompt", "rows"}) -> votes by row, 1 or -1; the other images of the
    sheet get none. seen: the questions that were answered. how: how they are ended, "done" or "pause".
    """

    def __init__(self, host: Host, judge: Callable[[dict[int, np.ndarray], dict], dict[int, int]], how: str = "done"):
        self.host, self.judge, self.how, self.seen = host, judge, how, []
        self.failed: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Rater:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(30)
        if self.failed is not None:
            raise HostError(f"the rater could not answer: {self.failed}") from self.failed

    def _work(self) -> None:
        try:
            while not self._stop.wait(0.05):
                for question in self.host.get("/posttrain/ratings").json()["questions"]:
                    if question["id"] not in [known["id"] for known in self.seen]:
                        self.answer(question)
        except Exception as error:  # whatever it was, nobody would answer any more and the training would wait for ever
            self.failed = error
            self.host.cancel()

    def answer(self, question: dict) -> None:
        address = f"/posttrain/ratings/{question['id']}"
        for sheet in question["sheets"]:
            images = {row: picture(self.host.get(f"{address}/images/{row}").content) for row in sheet["rows"]}
            votes = dict.fromkeys(sheet["rows"], 0) | self.judge(images, sheet)
            self._send(f"{address}/votes", {"votes": votes})
        self.seen.append(question)
        self._send(f"{address}/end", {"how": self.how})

    def _send(self, address: str, body: dict) -> None:
        answer = self.host.post(address, body)
        if not answer.ok:
            raise HostError(f"the server did not take the votes: {answer.text}")


def picture(data: bytes) -> np.ndarray:
    """[H, W, 3] in 0..1."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64) / 255


def brightest(images: dict[int, np.ndarray], _sheet: dict) -> dict[int, int]:
    """Best is the brightest image, worst the darkest."""
    order = sorted(images, key=lambda row: images[row].mean())
    return {order[-1]: 1, order[0]: -1}


def wait_for_question(host: Host, seconds: float = 120) -> dict:
    """The question that is open, as soon as there is one. HostError where none is asked in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = host.get("/posttrain/ratings").json()["questions"]
        if found:
            return found[0]
        time.sleep(0.1)
    raise HostError(f"no question was asked within {seconds:g} seconds")
