"""What headless.py reads and says; tests/host runs it."""

from __future__ import annotations

import asyncio
import io
import json
from types import SimpleNamespace

import pytest
from posttrain.nodes import headless
from posttrain.rewards.base import ranks

NODE = {"1": {"class_type": "PTTrain", "inputs": {"when_run_exists": "start over"}}}


def written(tmp_path, content):
    file = tmp_path / "workflow.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_workflows_for_the_api_are_read_also_as_a_request_holds_them(tmp_path):
    assert headless.read_workflow(written(tmp_path, NODE)) == NODE
    assert headless.read_workflow(written(tmp_path, {"prompt": NODE})) == NODE


@pytest.mark.parametrize(
    "content, words",
    [
        ("[", "JSON"),
        ("[]", "no workflow"),
        ("{}", "no workflow"),
        ({"1": 2}, "no workflow"),
        ({"nodes": [{"id": 1}]}, "as the page draws it"),
        ({"1": {"inputs": {}}}, "no workflow"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path, content, words):
    with pytest.raises(headless.WrongWorkflow, match=words):
        headless.read_workflow(written(tmp_path, content))


def test_a_start_that_a_launcher_repeats_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert not headless.restarted()  # one that does not say: nodes/meeting.py
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    prompt = headless.read_workflow(written(tmp_path, NODE))
    headless.going_on(prompt)
    assert headless.restarted() and prompt["1"]["inputs"]["when_run_exists"] == "continue with changed settings"


@pytest.mark.parametrize(
    "message, state",
    [
        (("execution_interrupted", {}), ranks.CANCELLED),
        (("execution_error", {"exception_type": "x.RankCancelled", "exception_message": "m"}), ranks.CANCELLED),
        (("execution_error", {"exception_type": "x.RewardUnavailable", "exception_message": "m"}), ranks.PAUSED),
        (("execution_error", {"exception_type": "ValueError", "exception_message": "m\nmore"}), ranks.FAILED),
    ],
)
def test_how_a_workflow_ended_is_told_apart(message, state):
    ended = headless.ending(SimpleNamespace(success=False, status_messages=[("execution_start", {}), message]))
    assert ended[0] == state and "\n" not in ended[1]
    assert headless.ending(SimpleNamespace(success=True))[0] == ranks.DONE


def test_progress_is_a_line_an_iteration_where_nobody_watches_a_terminal():
    out = io.StringIO()
    line = headless.ProgressLine(out)
    asyncio.run(line.send_json({"type": "progress", "data": {"value": 1, "max": 2}}))
    assert out.getvalue() == ""
    data = {"run": "r", "iteration": 1, "iterations": 4, "metrics": {"reward_mean": 0.5}, "seconds_left": 90}
    asyncio.run(line.send_json({"type": "posttrain.iteration", "data": data}))
    assert out.getvalue() == "r: 1 of 4, reward 0.5, 1.5 min left\n"


def test_what_the_validation_found_is_told_node_by_node():
    errors = {"7": {"class_type": "PTTrain", "errors": [{"message": "Value too small", "details": "iterations"}]}}
    assert headless.in_words({"message": "Bad", "details": ""}, errors).splitlines()[1:] == [
        "  PTTrain (node 7): Value too small iterations"
    ]
