"""One server, as it should be and as it should not: real HTTP servers on this machine."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from posttrain.trainers.servers import client as api
from posttrain.trainers.servers.client import Client, Lost, Unfit


class Host(ThreadingHTTPServer):
    """answers: route without its query -> what is answered as JSON, (status, bytes), or a function (host, body) that gives either.
    asked: (route, body) of each request."""

    daemon_threads = True

    def __init__(self, **answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked = {f"/{route.replace('__', '/')}": answer for route, answer in answers.items()}, []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.client = Client(f"http://127.0.0.1:{self.server_address[1]}", 1.0)

    def handle_error(self, request, client_address):
        pass  # clients that gave up

    def bodies(self, route: str) -> list:
        return [json.loads(body) for name, body in self.asked if name == route and body]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = self.path.partition("?")[0]
        self.server.asked.append((route, body))
        answer = self.server.answers.get(route, (404, b"no such route"))
        answer = answer(self.server, body) if callable(answer) else answer
        status, content = answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode())
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", content.decode())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def start():
    hosts = []

    def run(**answers) -> Host:
        hosts.append(Host(**answers))
        return hosts[-1]

    yield run
    for host in hosts:
        host.shutdown()
        host.server_close()


QUEUE = {"queue_running": [], "queue_pending": [[0, "job", {}]]}
DONE = {"job": {"status": {"status_str": "success"}, "outputs": {"1": {"latents": []}}}}


def run(host: Host, stopped=lambda: False, seconds: float = 1.0) -> dict:
    return api.run(host.client, {"1": {}}, stopped, seconds, rest=0.02)


def test_work_is_given_waited_for_and_its_outputs_are_taken(start):
    waits = iter([{}, {}, DONE])
    host = start(prompt={"prompt_id": "job"}, queue=QUEUE, history__job=lambda *_: next(waits))
    assert run(host) == {"1": {"latents": []}}
    assert host.bodies("/prompt")[0]["prompt"] == {"1": {}} and not host.bodies("/queue")


def test_work_that_failed_there_ends_in_the_servers_words(start):
    failed = {
        "status_str": "error",
        "messages": [["execution_error", {"node_type": "KSampler", "exception_message": "no memory\n"}]],
    }
    with pytest.raises(Lost, match="it failed: KSampler: no memory$"):
        run(start(prompt={"prompt_id": "job"}, queue=QUEUE, history__job={"job": {"status": failed, "outputs": {}}}))


def test_a_server_that_was_restarted_has_forgotten_its_work(start):
    with pytest.raises(Lost, match="it was restarted"):
        run(start(prompt={"prompt_id": "job"}, queue={"queue_running": [], "queue_pending": []}, history__job={}))


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
        run(host, seconds=0.2)
    assert host.bodies("/queue") == [{"delete": ["job"]}]
    assert host.bodies("/interrupt") == ([{"prompt_id": "job"}] if running else [])  # never somebody else's work


def test_work_that_nobody_waits_for_is_taken_back(start):
    host = start(prompt={"prompt_id": "job"}, queue=lambda host, body: (200, b"") if body else QUEUE, history__job={})
    with pytest.raises(Lost, match="told to stop"):
        run(host, stopped=lambda: len(host.asked) > 4, seconds=60)
    assert host.bodies("/queue") == [{"delete": ["job"]}]


def test_one_lost_answer_loses_no_server(start):
    def once(host, body):
        return (500, b"") if len([1 for route, _ in host.asked if route == "/history/job"]) == 1 else DONE

    assert run(start(prompt={"prompt_id": "job"}, queue=QUEUE, history__job=once))


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
        run(start(prompt=(400, json.dumps(found).encode())))


@pytest.mark.parametrize(
    "answer", [(200, b"<html>hello"), (200, b"[[[["), {"other": 1}, (200, b"[" * 100_000)], ids=["page", "cut", "other", "deep"]
)
def test_what_is_no_comfyui_is_lost_in_words(start, answer):
    with pytest.raises(Lost, match="no ComfyUI|no JSON"):
        api.version_of(start(system_stats=answer).client)


def test_nobody_there_and_somebody_who_hangs(start):
    with pytest.raises(Lost, match="does not answer"):
        api.version_of(Client("http://127.0.0.1:9", 1.0))
    host, started = start(system_stats=lambda *_: time.sleep(3) or {}), time.monotonic()
    with pytest.raises(Lost, match="does not answer"):
        api.version_of(host.client)
    assert time.monotonic() - started < 2.5


def test_an_endless_answer_is_cut(start):
    host = start(view=(200, b"x" * 5000))
    assert len(host.client.file({"filename": "a", "subfolder": ""}, 5000)) == 5000
    with pytest.raises(Lost, match="too long"):
        host.client.file({"filename": "a", "subfolder": ""}, 4999)


@pytest.mark.parametrize("status", [301, 302, 307])
def test_nobody_else_is_asked(start, status):
    other = start(system_stats={"system": {"comfyui_version": "1"}})
    host = start(system_stats=(status, f"{other.client.url}/system_stats".encode()))
    with pytest.raises(Lost, match=str(status)):
        api.version_of(host.client)
    assert not other.asked


def test_a_node_that_is_not_there_is_named(start):
    known = {f"object_info__{kind}": {kind: {}} for kind in api.NEEDED}
    host = start(**known, object_info__SomeLoader={})
    api.check_nodes(host.client, set())
    with pytest.raises(Unfit, match="no node SomeLoader; install there"):
        api.check_nodes(host.client, {"SomeLoader"})


def test_model_files_are_known_by_their_names_and_sizes(start):
    there = [{"name": "a.safetensors", "size": 10}, {"name": "b.safetensors", "size": 20}]
    host = start(experiment__models__loras=there, experiment__models__unet=[], models__unet=["c.gguf"])
    api.check_files(host.client, {"a.safetensors": {"checkpoints": 5, "loras": 10}, "c.gguf": {"unet": 30}})
    with pytest.raises(Unfit, match="b.safetensors has 20 bytes, the one of this computer 21"):
        api.check_files(host.client, {"b.safetensors": {"loras": 21}})
    with pytest.raises(Unfit, match="no model file d.gguf; put it there, under that name, into models/unet"):
        api.check_files(host.client, {"d.gguf": {"unet": 1}})


def test_a_lora_arrives_whole_where_loras_are_found(start):
    content = bytes(range(256)) * 40
    host = start(
        features={"max_upload_size": 1e6}, upload__image={"name": "a (1).safetensors"}, models__loras=["a (1).safetensors"]
    )
    assert api.send_lora(host.client, "a.safetensors", content) == "a (1).safetensors"
    sent = dict(host.asked)["/upload/image"]
    assert content in sent and b'name="type"\r\n\r\noutput\r\n' in sent and b'name="subfolder"\r\n\r\nloras\r\n' in sent
    assert b'filename="a.safetensors"' in sent


@pytest.mark.parametrize(
    "answers, words",
    [
        (dict(features={"max_upload_size": 1024}), "--max-upload-size 10"),
        (dict(features={}, upload__image=(413, b"too large")), "--max-upload-size"),
        (dict(features={}, upload__image={"name": "a"}, models__loras=[]), "output/loras"),
    ],
    ids=["said", "not said", "not listed"],
)
def test_a_server_that_cannot_take_a_lora_says_what_to_do(start, answers, words):
    with pytest.raises(Unfit, match=words):
        api.send_lora(start(**answers).client, "a", b"x" * 2048)
