"""A run whose settings have changed: a page is asked, a script gets the error, a page that goes away is not waited for."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from posttrain.nodes.page import question
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard, files, train
from posttrain.trainers.run import RunPlan, Session, SettingsChanged


@pytest.fixture
def server(monkeypatch):
    """What the pack needs of ComfyUI's server: who has queued the workflow, which pages are connected, and events."""
    found = SimpleNamespace(client_id="page", sockets={"page": object(), "script": object()}, sent=[])
    found.send_sync = lambda kind, data: found.sent.append((kind, data["open"]))
    monkeypatch.setattr(question, "page_server", lambda: found)
    monkeypatch.setattr(question, "_pages", {"page": None})
    return found


def trained(root, settings, check_cancelled=lambda: None):
    session = Session(root, RunPlan("cats", 6), Counter(), settings, Heard(),
                      ask=lambda changed: question.ask_the_page("cats", changed, check_cancelled))  # fmt: skip
    with session:
        while not session.done:
            session.advance(session.policy.stepped())
    return session


def answered(answer):
    """A page that answers the question that comes -> what it was asked."""
    asked = []

    def wait():
        while not question._open:
            time.sleep(0.005)
        (one,) = question._open.values()
        asked.append(one.plain())
        one.give(answer)

    thread = threading.Thread(target=wait)
    thread.start()
    return asked, thread


@pytest.mark.parametrize("answer, kept", [("continue with changed settings", [3, 6]), ("start over", [6])])
def test_the_page_is_asked_and_the_training_goes_on_with_its_answer(tmp_path, server, answer, kept):
    train(tmp_path, 3)
    asked, thread = answered(answer)
    session = trained(tmp_path, {"a": 2})
    thread.join()
    assert session.iteration == 6 and files(tmp_path) == kept and question._open == {}
    assert asked[0]["changes"] == [{"name": "a", "old": "1", "new": "2"}] and asked[0]["run"] == "cats"
    assert server.sent == [("posttrain.question", True), ("posttrain.question", False)]


def test_what_is_left_is_the_error_that_a_script_gets(tmp_path, server):
    train(tmp_path, 3)
    _, thread = answered("leave it")
    with pytest.raises(SettingsChanged) as left:
        trained(tmp_path, {"a": 2})
    thread.join()
    server.client_id = "script"
    with pytest.raises(SettingsChanged) as scripted:
        trained(tmp_path, {"a": 2})
    assert str(left.value) == str(scripted.value) and "'continue with changed settings'" in str(scripted.value)
    assert len(server.sent) == 2, "a script is not asked"


def test_neither_a_cancel_nor_a_page_that_went_away_is_waited_for(tmp_path, server):
    train(tmp_path, 3)

    def cancelled():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, {"a": 2}, cancelled)
    del server.sockets["page"]
    with pytest.raises(SettingsChanged):
        trained(tmp_path, {"a": 2})
    assert question._open == {} and files(tmp_path) == [3]


def test_only_its_answers_are_taken():
    asked = question.Question("cats", "text", [])
    with pytest.raises(ValueError, match="^answer: 'explode' is none; use one of continue with changed settings"):
        asked.give("explode")
    assert not asked.answered.is_set()
