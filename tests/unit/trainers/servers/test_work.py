"""A graph that a server is given, as it should go and as it should not: real HTTP servers on this machine."""

from __future__ import annotations

import json
import threading
import time

import pytest
from posttrain.trainers.servers.client import Client, Lost, Unfit
from posttrain.trainers.servers.work import run

QUEUE = {"queue_running": [], "queue_pending": [[0, "job", {}]]}
DONE = {"job": {"status": {"status_str": "success"}, "outputs": {"1": {"latents": []}}}}


def given(host, stopped=lambda: False, seconds: float = 1.0) -> dict:
    return run(host.client, {"1": {}}, stopped, seconds, rest=0.02)


def test_work_is_given_waited_for_and_its_outputs_are_taken(start):
    waits = iter([{}, {}, DONE])
    host = start(prompt={"prompt_id": "job"}, queue=QUEUE, history__job=lambda *_: next(waits))
    assert given(host) == {"1": {"latents": []}}
    assert host.bodies("/prompt")[0]["prompt"] == {"1": {}} and not host.bodies("/queue")


def test_work_that_failed_there_ends_in_the_servers_words(start):
    failed = {
        "status_str": "error",
        "messages": [["execution_error", {"node_type": "KSampler", "exception_message": "no memory\n"}]],
    }
    with pytest.raises(Lost, match="it failed: KSampler: no memory$"):
        given(start(prompt={"prompt_id": "job"}, queue=QUEUE, history__job={"job": {"status": failed, "outputs": {}}}))


def test_a_server_that_was_restarted_has_forgotten_its_work(start):
    with pytest.raises(Lost, match="it was restarted"):
        given(start(prompt={"prompt_id": "job"}, queue={"queue_running": [], "queue_pending": []}, history__job={}))


@pytest.mark.parametrize("running", [True, False])
def test_work_that_takes_too_long_is_taken_back(start, running):
    queue = {"queue_running": [[0, "job"]], "queue_pending": []} if running else QUEUE
    host = start(
        prompt={"prompt_id": "job"},
        queue=lambda host, body: (200, b"") if body else queue,
        history__job={},
        interrupt=(200, b""),
    )
    with pytest.raises(Lost, match="in time"):
        given(host, seconds=0.2)
    assert host.bodies("/queue") == [{"delete": ["job"]}]
    assert host.bodies("/interrupt") == ([{"prompt_id": "job"}] if running else [])  # never somebody else's work


def test_work_that_nobody_waits_for_is_taken_back(start):
    host = start(prompt={"prompt_id": "job"}, queue=lambda host, body: (200, b"") if body else QUEUE, history__job={})
    with pytest.raises(Lost, match="told to stop"):
        given(host, stopped=lambda: len(host.asked) > 4, seconds=60)
    assert host.bodies("/queue") == [{"delete": ["job"]}]


def test_one_lost_answer_loses_no_server(start):
    def once(host, body):
        return (500, b"") if len([1 for route, _ in host.asked if route == "/history/job"]) == 1 else DONE

    assert given(start(prompt={"prompt_id": "job"}, queue=QUEUE, history__job=once))


def test_a_graph_that_the_server_refuses_is_told_node_by_node(start):
    found = {
        "error": {"message": "wrong", "details": ""},
        "node_errors": {
            "3": {
                "class_type": "CheckpointLoaderSimple",
                "errors": [{"message": "Value not in list", "details": "ckpt_name: 'mine.safetensors' not in []"}],
            }
        },
    }
    with pytest.raises(Unfit, match="CheckpointLoaderSimple: Value not in list, ckpt_name: 'mine.safetensors'"):
        given(start(prompt=(400, json.dumps(found).encode())))


class Quiet:
    """One that says by itself when it has finished. after: holds that it takes; known: whether it still has the graph."""

    def __init__(self, after: int, known: bool = True):
        self.after, self.known, self.asked, self.heard = after, known, [], threading.Event()

    def __call__(self, route, body, kind, seconds):
        self.asked.append(route)
        queue = {"queue_running": [[0, "job"]] if self.known else [], "queue_pending": []}
        return 200, json.dumps({"prompt_id": "job"} if route == "/prompt" else queue).encode()

    def finished(self, route, stopped, seconds):
        self.asked.append(route)
        self.after -= 1
        if self.after == 0:
            return 200, json.dumps(DONE).encode()
        while self.after < 0 and not stopped():  # it would take for ever
            time.sleep(0.01)
        return 200, b"{}"


def test_one_that_says_when_it_has_finished_is_asked_no_more_than_it_must():
    for holds, expected in ((1, []), (2, ["/queue", "/history/job"])):
        quiet = Quiet(holds)
        assert run(Client("ray 0", send=quiet), {"1": {}}, lambda: False, 5.0) == {"1": {"latents": []}}
        assert quiet.asked == ["/prompt", "/history/job", *expected]


def test_work_of_one_that_says_when_it_has_finished_is_taken_back_where_it_was_given():
    quiet, end = Quiet(0), time.monotonic() + 0.1
    with pytest.raises(Lost, match="told to stop"):
        run(Client("ray 0", send=quiet), {"1": {}}, lambda: time.monotonic() > end, 60.0)
    assert quiet.asked[-3:] == ["/queue", "/queue", "/interrupt"]


def test_one_that_has_forgotten_its_work_is_lost():
    with pytest.raises(Lost, match="restarted"):
        run(Client("ray 0", send=Quiet(9, known=False)), {"1": {}}, lambda: False, 60.0)
