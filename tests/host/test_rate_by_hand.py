"""Rate by Hand on the real server: a rater answers over the routes, and a training learns from it."""
from __future__ import annotations

import hashlib
import json
import threading

import pytest
from posttrain.tests.host.lab_graph import node
from posttrain.tests.host.spine_graph import spine
from posttrain.tools.graphs import swap_feedback, swap_reward, swap_trainer
from posttrain.tools.rater import Rater, brightest, wait_for_question
from posttrain.tools.training import with_defaults
from posttrain.trainers.data.files import read_file


def graph(host, run: str, iterations: int = 2, mode: str = "best and worst", minutes: float = 0.0, **changes) -> dict:
    """Flow-GRPO's workflow with a person in the place of the verifier, and Diffusion-DPO that learns from pairs."""
    made = spine(run, iterations, **changes)
    swap_reward(made, node("PTRewardHuman", mode=mode, votes_name=run, wait_minutes=minutes))
    if mode == "best and worst":
        swap_trainer(made, node("PTDiffusionDPO", learning_rate=1e-3, updates_per_rollout=1))
        swap_feedback(made, node("PTPreferences"))
    return with_defaults(made, host.object_info())


def votes_file(host, name: str):
    return host.base / "output" / "posttrain_votes" / name / "votes.jsonl"


def votes(host, name: str) -> list[dict]:
    return [json.loads(line) for line in votes_file(host, name).read_text(encoding="utf-8").splitlines()]


def points(host, run: str) -> list[dict]:
    path = host.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def status(host, run: str) -> dict:
    return host.get(f"/posttrain/runs/spine {run}").json()


@pytest.fixture(scope="module")
def rated(host):
    with Rater(host, brightest) as rater:
        result = host.run(graph(host, "rated", 2))
    assert result.event == "success", result.text
    return rater


def test_a_policy_learns_from_the_rater(host, rated):
    assert [point["pairs"] for point in points(host, "rated")] == [2, 2]
    assert all(point["updates"] == 1 and point["reward_mean"] == 0 for point in points(host, "rated"))
    assert [len(question["sheets"]) for question in rated.seen] == [2, 2]
    assert all(len(sheet["rows"]) == 4 for question in rated.seen for sheet in question["sheets"])
    assert host.get("/posttrain/ratings").json() == {"questions": []}


def test_its_votes_are_a_file_that_trains_again(host, rated):
    found = votes(host, "rated")
    assert len(found) == 8 and sorted(vote["vote"] for vote in found) == [-1] * 4 + [1] * 4
    for vote in found:
        image = votes_file(host, "rated").parent / vote["image"]
        assert hashlib.sha256(image.read_bytes()).hexdigest() == vote["image_sha256"]
    assert len({vote["pair_id"] for vote in found}) == 4
    data = read_file(votes_file(host, "rated"), 100, votes="pairs")
    assert len(data.rows) == 4, "best and worst of each sheet, and nothing across sheets"
    assert {pair.prompt for pair in data.rows} == {sheet["prompt"] for q in rated.seen for sheet in q["sheets"]}


def test_pause_and_go_on_with_the_same_images(host):
    judged = []

    def leaves_in_the_middle(images, sheet):
        """The first prompt, and of the second only the best image."""
        judged.append(sheet)
        return {row: vote for row, vote in brightest(images, sheet).items() if vote == 1 or len(judged) == 1}

    with Rater(host, leaves_in_the_middle, how="pause") as rater:
        result = host.run(graph(host, "pausing", 1))
    assert result.event == "error" and "you have paused the rating of 'pausing'" in result.text
    assert status(host, "pausing")["status"] == "paused"
    before, = rater.seen
    given = {vote["image_sha256"]: vote["vote"] for vote in votes(host, "pausing")}
    assert sorted(given.values()) == [-1, 1, 1]

    with Rater(host, brightest) as rater:
        result = host.run(graph(host, "pausing", 1))
    assert result.event == "success", result.text
    again, = rater.seen
    assert sorted(again["votes"].values()) == [-1, 1, 1], "what was voted before is shown"
    assert {sheet["prompt"] for sheet in again["sheets"]} == {sheet["prompt"] for sheet in before["sheets"]}
    assert len(votes(host, "pausing")) == 4, "the same votes again are not written again"
    assert len(read_file(votes_file(host, "pausing"), 9, votes="pairs").rows) == 2, "a sheet may be judged in two sittings"
    assert points(host, "pausing")[0]["pairs"] == 2


def test_cancel_while_it_waits(host):
    def watch():
        wait_for_question(host)
        host.cancel()
    canceller = threading.Thread(target=watch)
    canceller.start()
    result = host.run(graph(host, "cancelled", 3), timeout=120)
    canceller.join()
    assert result.event == "interrupted"
    assert host.get("/posttrain/ratings").json() == {"questions": []}
    assert status(host, "cancelled")["status"] == "cancelled"


def test_nobody_there_pauses_the_training(host):
    result = host.run(graph(host, "alone", 2, minutes=0.01), timeout=120)
    assert result.event == "error" and "nobody has rated the images of 'alone' within 0.01 minutes" in result.text
    assert status(host, "alone")["status"] == "paused"


def test_thumbs_and_what_was_left_out(host):
    """Two up, one down, and one of each prompt not judged, which is not a bad image but no image."""
    def judge(images, sheet):
        rows = sheet["rows"]
        return {rows[0]: 1, rows[1]: 1, rows[2]: -1}
    with Rater(host, judge):
        result = host.run(graph(host, "thumbs", 1, mode="thumbs"))
    assert result.event == "success", result.text
    point, = points(host, "thumbs")
    assert point["failed"] == 2 and point["reward_mean"] == pytest.approx(1 / 3) and point["updates"] > 0
    assert all("pair_id" not in vote for vote in votes(host, "thumbs"))


def test_done_without_a_vote_teaches_nothing(host):
    with Rater(host, lambda images, sheet: {}):
        result = host.run(graph(host, "silent", 1, mode="thumbs"))
    assert result.event == "success", result.text
    point, = points(host, "silent")
    assert point["failed"] == 8 and point["updates"] == 0
    assert not votes_file(host, "silent").exists()


def test_one_image_per_prompt_cannot_be_compared(host):
    result = host.run(graph(host, "single", 1, **{"4.images_per_prompt": 1}))
    assert result.event == "error" and "raise images per prompt to 2 or more, or rate with thumbs" in result.text


@pytest.mark.parametrize("name", ["", "a/b", "con", "a" * 90])
def test_bad_names_are_refused_before_the_run(host, name):
    bad = graph(host, "named", 1)
    next(n for n in bad.values() if n["class_type"] == "PTRewardHuman")["inputs"]["votes_name"] = name
    result = host.run(bad)
    assert result.event == "rejected" and "votes_name" in result.text and "run_name" not in result.text


@pytest.fixture(scope="module")
def asked(host):
    """A question that stays open, and its address."""
    running = threading.Thread(target=lambda: host.run(graph(host, "asked", 1), timeout=300))
    running.start()
    question = wait_for_question(host)
    yield question
    host.cancel()
    running.join()


@pytest.mark.parametrize("route, body, code, word", [
    ("votes", {"votes": {"999": 1}}, 404, "no image 999"), ("votes", {"votes": {"0": 2}}, 400, "neither 1"),
    ("votes", {"votes": {"0": True}}, 400, "neither 1"), ("votes", {"votes": {"x": 1}}, 400, "invalid literal"),
    ("votes", {}, 400, "votes: it is missing"), ("votes", [1], 400, "votes: it is missing"),
    ("end", {"how": "maybe"}, 400, "unknown"), ("end", {}, 400, "how: it is missing")])
def test_bad_answers_change_nothing(host, asked, route, body, code, word):
    answer = host.post(f"/posttrain/ratings/{asked['id']}/{route}", body)
    assert answer.status_code == code and word in answer.json()["error"]
    assert wait_for_question(host) == asked


def test_unknown_questions_and_images(host, asked):
    assert host.post("/posttrain/ratings/0/votes", {"votes": {"0": 1}}).status_code == 404
    assert host.get(f"/posttrain/ratings/{asked['id']}/images/999").status_code == 404
    assert host.get(f"/posttrain/ratings/{asked['id']}/images/x").status_code == 400


def test_a_vote_is_kept_and_can_be_taken_back(host, asked):
    row = asked["sheets"][0]["rows"][0]
    for vote in (1, 1, -1, 0):
        answer = host.post(f"/posttrain/ratings/{asked['id']}/votes", {"votes": {row: vote}}).json()
        assert answer["votes"] == ({str(row): vote} if vote else {})
    assert [vote["vote"] for vote in votes(host, "asked")] == [1, -1, 0]
