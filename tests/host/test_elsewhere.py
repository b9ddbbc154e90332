"""A training of another process on the page of a ComfyUI that it is told of: shown, paused, cancelled, rated for."""

from __future__ import annotations

import json
import time

import pytest
from posttrain.tests.host.headless_runs import LONGEST, Headless, until
from posttrain.tests.host.lab_graph import node
from posttrain.tests.host.spine_graph import spine
from posttrain.tools.graphs import swap_feedback, swap_reward, swap_trainer
from posttrain.tools.host import Host
from posttrain.tools.rater import Rater, brightest
from posttrain.tools.training import with_defaults

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def watching(tmp_path_factory):
    """A ComfyUI whose user has set the key; the trainings of these tests are told the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_PAGE_KEY", KEY)
        with Host(tmp_path_factory.mktemp("watching")) as running:
            yield running


@pytest.fixture
def training(tmp_path, watching) -> Headless:
    return Headless(tmp_path)


@pytest.fixture
def started(training, watching):
    """Starts a training that is told of the watching ComfyUI; nothing is left of it after the test."""
    processes = []

    def start(graph: dict, page: Host = watching):
        processes.append(training.start(graph, options=("--page", page.url)))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def shown(watching: Host, run: str) -> dict:
    """What the page of the watching ComfyUI is told of the run; nothing as long as it knows none."""
    found = [each for each in watching.get("/posttrain/runs").json() if each["run"].startswith(f"spine {run} @ ")]
    return watching.get(f"/posttrain/runs/{found[0]['run']}").json() if found else {}


def asked(watching: Host, run: str, what: str, value: float | None = None) -> dict:
    answer = watching.post(f"/posttrain/runs/{shown(watching, run)['run']}/steer", {"do": what, "value": value})
    assert answer.ok, answer.text
    return answer.json()


def own_points(training: Headless, run: str) -> list[dict]:
    file = training.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_numbers_and_pictures_arrive_and_stay_and_orders_are_done(watching, training, started):
    process = started(spine("far", 500))
    until(lambda: shown(watching, "far").get("points") and shown(watching, "far")["samples"], process, LONGEST)
    assert shown(watching, "far")["status"] == "running"

    asked(watching, "far", "pause")
    until(lambda: shown(watching, "far")["status"] == "paused", process)
    kept = training.iterations("far")
    config = json.loads((training.base / "output/posttrain/spine far/config.json").read_text())
    assert config["status"] == "paused" and list((training.base / "output/posttrain/spine far/checkpoints").iterdir())
    refused = watching.post(f"/posttrain/runs/{shown(watching, 'far')['run']}/steer", {"do": "learning rate", "value": -1})
    assert refused.status_code == 400 and "is no learning rate" in refused.json()["error"]
    asked(watching, "far", "learning rate", 1e-5)
    time.sleep(1)
    assert training.iterations("far") == kept and shown(watching, "far")["steering"]["far"]
    name = shown(watching, "far")["run"]
    locked = watching.post(f"/posttrain/runs/{name}/delete", {"delete": name})
    assert locked.status_code == 400 and "is being trained" in locked.json()["error"]

    asked(watching, "far", "go on")
    until(lambda: training.iterations("far") >= kept + 2, process)
    asked(watching, "far", "cancel")
    assert process.wait(LONGEST) == 130, training.text()[-3000:]
    found, own = shown(watching, "far"), own_points(training, "far")
    assert found["status"] == "cancelled" and found["points"] == own and found["steering"] is None
    assert [point["learning_rate"] for point in own if point["iteration"] > kept + 1][0] <= 1e-5
    assert len(found["samples"]) == len(own)
    for each in found["samples"]:
        sent = watching.get(f"/posttrain/runs/{name}/samples/{each['file']}").content
        assert sent == (training.base / "output/posttrain/spine far/samples" / each["file"]).read_bytes()
    assert any(message["level"] == "steer" for message in found["messages"])
    copy = watching.base / "output" / "posttrain" / name
    assert not (copy / "checkpoints").exists()
    assert watching.post(f"/posttrain/runs/{name}/delete", {"delete": name}).ok, "once it has ended it is a run like others"


def by_hand(watching: Host, run: str) -> dict:
    graph = spine(run, 1)
    swap_reward(graph, node("PTRewardHuman", mode="best and worst", votes_name=run, wait_minutes=0.0))
    swap_trainer(graph, node("PTDiffusionDPO", learning_rate=1e-3, updates_per_rollout=1))
    swap_feedback(graph, node("PTPreferences"))
    return with_defaults(graph, watching.object_info())


def test_a_person_at_that_page_rates_and_may_pause_the_training(watching, training, started):
    with Rater(watching, brightest, how="pause") as rater:
        assert started(by_hand(watching, "hand")).wait(LONGEST) == 3, training.text()[-3000:]
    assert "you have paused the rating" in training.text() and len(rater.seen) == 1
    assert shown(watching, "hand")["status"] == "paused" and watching.get("/posttrain/ratings").json() == {"questions": []}
    book = training.base / "output" / "posttrain_votes" / "hand" / "votes.jsonl"
    kept = book.read_text()
    assert sorted(json.loads(line)["vote"] for line in kept.splitlines()) == [-1, -1, 1, 1]

    with Rater(watching, brightest) as rater:
        assert started(by_hand(watching, "hand")).wait(LONGEST) == 0, training.text()[-3000:]
    (question,) = rater.seen
    assert len(question["votes"]) == 4 and book.read_text() == kept, "the same images, with the votes of before"
    assert [point["pairs"] for point in own_points(training, "hand")] == [2] and shown(watching, "hand")["status"] == "done"


def test_without_a_page_nobody_is_asked_and_the_run_says_so(watching, training):
    assert training.run(by_hand(watching, "unseen")) == 3
    assert "headless.py is told the address of one that runs with --page" in training.text()


def test_a_page_that_is_away_costs_nothing_and_has_all_once_it_is_back(training, started, tmp_path):
    """Also one that has lost its output folder in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_PAGE_KEY", KEY)
        page = Host(tmp_path / "first page")
        process = started(spine("back", 500), page)
        until(lambda: shown(page, "back").get("points"), process, LONGEST)
        page.kill()
        before = training.iterations("back")
        until(lambda: training.iterations("back") >= before + 3 and "does not show this training" in training.text(), process)
        with Host(tmp_path / "second page", port=page.port) as again:
            until(lambda: len(shown(again, "back").get("points", [])) > before + 3, process)
            assert shown(again, "back")["points"][0]["iteration"] == 1 and shown(again, "back")["status"] == "running"
            until(lambda: "shows it again" in training.text(), process)
            process.kill()
            until_lost = time.monotonic() + 90
            while shown(again, "back")["status"] == "running" and time.monotonic() < until_lost:
                time.sleep(1)
            found = shown(again, "back")
            assert found["status"] == "stopped" and found["steering"] is None
            assert any("Nothing has been heard" in message["text"] for message in found["messages"])


def test_two_processes_are_one_training_on_the_page(watching, training):
    process = training.start(spine("two", 500, **{"4.batch_size": 4}), ranks=2, options=("--page", watching.url))
    until(lambda: shown(watching, "two").get("points"), process, LONGEST)
    asked(watching, "two", "pause")
    until(lambda: shown(watching, "two")["status"] == "paused", process)
    asked(watching, "two", "cancel")
    assert process.wait(LONGEST) != 0  # torchrun's own code: its processes end with 130
    assert shown(watching, "two")["status"] == "cancelled" and shown(watching, "two")["points"] == own_points(training, "two")


@pytest.mark.parametrize(
    "page, key, words",
    [
        ("{url}", "another key, also long", "the key is not this ComfyUI's"),
        ("{url}", "short", "has to have 16 letters and digits or more"),
        ("{url}", "", "set the environment variable POSTTRAIN_PAGE_KEY"),
        ("http://127.0.0.1:9", KEY, "no ComfyUI answers there"),
        ("ftp://127.0.0.1", KEY, "url must begin with http"),
    ],
)
def test_what_cannot_be_shown_is_said_before_anything_runs(watching, training, monkeypatch, page, key, words):
    monkeypatch.setenv("POSTTRAIN_PAGE_KEY", key)
    assert training.run(spine("none", 1), options=("--page", page.format(url=watching.url))) == 2
    assert words in training.text() and not (training.base / "output" / "posttrain").exists()
