"""Who may show a training here, and what of a run's folder is taken: through the real routes."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from posttrain.nodes.page import elsewhere, live, run_reader
from posttrain.nodes.page.copies import copied_files, copy_folder, host_name, is_copied
from posttrain.trainers.run.steering import state_of

KEY, PLACE = "0123456789abcdef", uuid.uuid4().hex
RUN = {
    "id": "ab" * 16,
    "live": {"status": "running", "iteration": 3},
    "steering": {"paused": False, "asked": [], "numbers": {}},
}


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(*(act, body, key)): the answers, one after the other, of one server whose runs lie in tmp_path."""
    monkeypatch.setattr(elsewhere, "runs_root", lambda: tmp_path)
    monkeypatch.setattr(run_reader, "runs_root", lambda: tmp_path)
    monkeypatch.setenv("POSTTRAIN_PAGE_KEY", KEY)

    async def asked(questions):
        app, routes, answers = web.Application(), web.RouteTableDef(), []
        elsewhere.register_routes(routes)
        app.add_routes(routes)
        async with TestClient(TestServer(app)) as client:
            for act, body, *key in questions:
                data = body if isinstance(body, bytes) else json.dumps(body)
                answer = await client.post(
                    f"/posttrain/elsewhere/{act}", data=data, headers={elsewhere.HEADER: (key or [KEY])[0]}
                )
                answers.append((answer.status, await answer.json()))
            for place in list(elsewhere._places.values()):
                place.close()
        return answers

    return lambda *questions: asyncio.run(asked(questions))


def said(over: bool = False, **changes) -> dict:
    return {"host": "far.example", "runs": {"mine": RUN}, "events": [], "questions": [], "over": over} | changes


def file(name: str, start: int = 0, **more) -> str:
    about = {"run": "mine", "id": RUN["id"], "host": "far.example", "file": name, "from": start} | more
    return f"{PLACE}/file?" + "&".join(f"{key}={value}" for key, value in about.items())


def test_only_the_key_that_the_user_has_set_opens_it(ask, tmp_path, monkeypatch):
    for wrong in ("", "0123456789abcdeX", KEY + "0"):
        assert [status for status, _ in ask((f"{PLACE}/say", said(), wrong), (file("config.json"), b"{}", wrong))] == [403, 403]
    monkeypatch.delenv("POSTTRAIN_PAGE_KEY")
    ((status, answer),) = ask((f"{PLACE}/say", said(), ""))
    assert status == 403 and "until its user sets a key" in answer["error"] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["../outside.json", "checkpoints/state_0000001.safetensors", "lock", "samples/../config.json", "samples/x.html", "page.json",
     "", "samples/iteration_000001.svg", "copy.json", "/etc/passwd"],
)  # fmt: skip
def test_other_files_are_not_taken(ask, tmp_path, name):
    assert not is_copied(name)
    ((status, _),) = ask((file(name), b"x"))
    assert status == 400
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"copy.json"}


def test_a_file_that_grows_is_sent_in_parts_and_asked_for_anew_where_the_beginning_is_missing(ask, tmp_path):
    answers = ask(
        (file("metrics.jsonl", 5), b"6789"),
        (file("metrics.jsonl"), b"01234xx"),
        (file("metrics.jsonl", 5), b"56789"),
        (file("samples/iteration_000001.webp"), b"a"),
        (file("samples/iteration_000002.webp"), b"b"),
        (file("samples/iteration_000001.webp", gone=1), b""),
    )
    assert [status for status, _ in answers] == [404, 200, 200, 200, 200, 200]
    folder = tmp_path / "mine @ far"
    assert (folder / "metrics.jsonl").read_bytes() == b"0123456789"
    assert copied_files(folder) == ["metrics.jsonl", "samples/iteration_000002.webp"]


@pytest.mark.parametrize(
    "body",
    [{}, said(runs={"mine": {}}), said(runs={"../x": RUN}), said(runs={"mine": RUN | {"id": "../x"}}), said(events=[5]),
     said(questions=[{}]), said(runs={"mine": 5}), said(host=5)],
)  # fmt: skip
def test_what_has_another_form_is_refused_in_words(ask, tmp_path, body):
    ((status, answer),) = ask((f"{PLACE}/say", body))
    assert status == 400 and answer["error"] and {path.name for path in tmp_path.iterdir()} <= {"mine @ far"}


def test_a_name_that_no_training_gives_itself_is_refused(ask):
    assert ask(("x/say", said()), ("x/hear", {"answers": []}))[0][0] == 400


def test_a_run_is_live_as_long_as_it_is_told_of(ask, tmp_path, monkeypatch):
    seen = []
    live.forget("mine @ far")
    monkeypatch.setattr(live, "_listeners", [lambda kind, event: seen.append((kind, event["run"]))])
    ask(
        (
            f"{PLACE}/say",
            said(events=[{"kind": "message", "run": "mine", "node": "7", "text": "hello"}, {"kind": "x", "run": "mine"}]),
        )
    )
    assert seen == [("state", "mine @ far"), ("message", "mine @ far")]
    assert live.live_state("mine @ far")["status"] == "running" and "node" not in live.live_state("mine @ far")
    assert state_of(tmp_path / "mine @ far") is None, "the place was closed"


def test_a_process_that_was_started_in_the_place_of_another_one_has_the_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(elsewhere, "runs_root", lambda: tmp_path)
    live.forget("mine @ far")

    async def told():
        first, second = (elsewhere.place_of(uuid.uuid4().hex) for _ in range(2))
        first.say(said())
        second.say(said())
        first._lose()
        found = live.live_state("mine @ far")["status"], state_of(tmp_path / "mine @ far")
        second._lose()
        return found

    status, steering = asyncio.run(told())
    assert status == "running" and steering["far"]
    assert live.live_state("mine @ far")["status"] == "stopped" and state_of(tmp_path / "mine @ far") is None


def test_a_copy_keeps_its_folder_and_takes_none_that_is_there(tmp_path):
    (tmp_path / "mine @ far").mkdir()
    folder = copy_folder(tmp_path, "mine", "ab" * 16, "far.example")
    assert folder.name == "mine @ far 2" and copy_folder(tmp_path, "mine", "ab" * 16, "elsewhere") == folder
    folder.rename(tmp_path / "renamed")
    assert copy_folder(tmp_path, "mine", "ab" * 16, "far.example").name == "renamed"
    assert copy_folder(tmp_path, "mine", "cd" * 16, "far.example").name == "mine @ far 2"


@pytest.mark.parametrize(
    "host, name", [("a.b.c", "a"), ("../..", "elsewhere"), ("x y/z", "x-y-z"), ("", "elsewhere"), ("é", "elsewhere")]
)
def test_a_host_is_named_so_that_a_folder_may_be_called_so(host, name):
    assert host_name(host) == name
