"""Somebody who answers the questions of Rate by Hand through the server's routes, as a script without a page would."""
from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import numpy as np
from PIL import Image


class Rater:
    """``with Rater(host, judge) as rater:`` answers every question. judge(images by row, sheet) -> votes by row.

    seen: the questions that were answered. how: how they are ended.
    """

    def __init__(self, host, judge: Callable[[dict[int, np.ndarray], dict], dict[int, int]], how: str = "done"):
        self.host, self.judge, self.how, self.seen = host, judge, how, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Rater:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(30)

    def _work(self) -> None:
        while not self._stop.wait(0.05):
            for question in self.host.get("/posttrain/ratings").json()["questions"]:
                if question["id"] not in [known["id"] for known in self.seen]:
                    self.answer(question)

    def answer(self, question: dict) -> None:
        address = f"/posttrain/ratings/{question['id']}"
        for sheet in question["sheets"]:
            images = {row: picture(self.host.get(f"{address}/images/{row}").content) for row in sheet["rows"]}
            votes = self.judge(images, sheet)
            assert self.host.post(f"{address}/votes", {"votes": votes}).ok
        self.seen.append(question)
        assert self.host.post(f"{address}/end", {"how": self.how}).ok


def picture(data: bytes) -> np.ndarray:
    """[H, W, 3] in 0..1."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64) / 255


def brightest(images: dict[int, np.ndarray], _sheet: dict) -> dict[int, int]:
    """Best is the brightest image, worst the darkest."""
    order = sorted(images, key=lambda row: images[row].mean())
    return {order[-1]: 1, order[0]: -1}


def wait_for_question(host, seconds: float = 120) -> dict:
    """The question that is open, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = host.get("/posttrain/ratings").json()["questions"]
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no question was asked")
