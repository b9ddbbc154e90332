"""Stands in for the host's server while a loop's body runs inside a node.

The body is run by an executor of its own, once per iteration. What that executor tells about starting, ending and
failing is the loop's business, not the page's; what it tells about progress reaches the page, ten times a second.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable

ENDS_AND_STARTS = {"execution_start", "execution_cached", "execution_success", "execution_error",
                   "execution_interrupted"}
OFTEN = {"progress_state", "executing", "progress"}
GAP = 0.1  # seconds


class BodyServer:
    """bars: progress of the nodes outside the body, since each progress message replaces the whole picture.
    private: nodes that the user does not know of."""

    def __init__(self, server, bars: Callable[[], dict], private: set[str]):
        self._server, self._bars, self._private = server, bars, private
        self.client_id, self.last_node_id = server.client_id, None
        self._sent: dict[str, float] = {}
        self._held: dict[str, tuple] = {}
        self._mutex = threading.Lock()
        self._closed = False

    def __getattr__(self, name: str):
        return getattr(self._server, name)  # whatever else this host's executor asks its server for

    def send_sync(self, event, data, sid=None) -> None:
        if event in ENDS_AND_STARTS or isinstance(data, dict) and data.get("node") in self._private:
            return
        if event == "progress_state":
            nodes = {node: bar for node, bar in data["nodes"].items() if node not in self._private}
            data = {**data, "nodes": {**self._bars(), **nodes}}
        if event not in OFTEN:
            self._server.send_sync(event, data, sid)
            return
        with self._mutex:
            now = time.monotonic()
            wait = self._sent.get(event, 0.0) + GAP - now
            if wait > 0:
                self._hold(event, (data, sid), wait)
                return
            self._sent[event] = now
            self._held.pop(event, None)
        self._server.send_sync(event, data, sid)

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            self._held.clear()

    def _hold(self, event: str, message: tuple, wait: float) -> None:
        """Keeps the last message for later: a node that runs on must be seen running."""
        first = event not in self._held
        self._held[event] = message
        if first:
            loop = self._server.loop
            loop.call_soon_threadsafe(lambda: loop.call_later(wait, self._flush, event))

    def _flush(self, event: str) -> None:
        with self._mutex:
            message = self._held.pop(event, None)
            if message is None or self._closed:
                return
            self._sent[event] = time.monotonic()
        self._server.send_sync(event, *message)
