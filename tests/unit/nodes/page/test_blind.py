"""Blind comparisons by the routes: what is shown tells nothing, and what is answered becomes the run's result."""

from __future__ import annotations

import json

import pytest
import torch
from posttrain.nodes.page import blind, rating
from posttrain.tests.unit.nodes.page.test_live import make_run
from posttrain.tests.unit.nodes.page.test_routes import asked
from posttrain.trainers.run.compared import keep_compared

PROMPTS = ["a cat", "a cat", "a dog", "a dog", "a bird", "a bird"]
DARK, LIGHT = 0.2, 0.8


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Of the run "light" the newest pictures are light; those before training and those of "dark" are dark."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    root = tmp_path / "output" / "posttrain"
    for name, level in (("light", LIGHT), ("dark", DARK)):
        folder = make_run(root, name)
        keep_compared(folder, 0, pictures(DARK, 0), PROMPTS)
        keep_compared(folder, 40, pictures(level, 40), PROMPTS)
    yield root
    blind._asked.clear()
    rating._open.clear()


def pictures(level: float, seed: int) -> torch.Tensor:
    return level + torch.rand(6, 8, 8, 3, generator=torch.Generator().manual_seed(seed)) * 0.1


def post(path: str, **body) -> tuple[int, dict]:
    ((status, _, text),) = asked([("POST", path, {"data": json.dumps(body).encode()})])
    return status, json.loads(text)


def get(path: str) -> dict:
    ((status, _, text),) = asked([("GET", path, {})])
    assert status == 200, text
    return json.loads(text)


def begin(run: str, against: str) -> dict:
    status, told = post(f"/posttrain/runs/{run}/blind", against=against)
    assert status == 200, told
    (question,) = get("/posttrain/ratings")["questions"]
    assert question["id"] == told["question"] and told["pairs"] == 6
    return question


def is_light(question: dict, row: int) -> bool:
    import io

    from PIL import Image

    ((_, _, png),) = asked([("GET", f"/posttrain/ratings/{question['id']}/images/{row}", {})])
    return Image.open(io.BytesIO(png)).getpixel((3, 3))[0] > 127


def votes_for(question: dict, sheet: dict, light: bool) -> dict:
    return {str(row): 1 if is_light(question, row) == light else -1 for row in sheet["rows"]}


def blind_of(run: str) -> list[dict]:
    return get(f"/posttrain/runs/{run}/report")["blind"]


def test_whoever_always_prefers_the_trained_ones_finds_them_better(runs):
    question = begin("light", "light")
    where = f"/posttrain/ratings/{question['id']}"
    assert question["blind"] and question["title"] == "light" and "40" not in json.dumps(question["sheets"])
    lefts = [is_light(question, sheet["rows"][0]) for sheet in question["sheets"]]
    assert sorted(lefts) == [False] * 3 + [True] * 3, "half of them are turned round"
    assert sorted(sheet["prompt"] for sheet in question["sheets"]) == sorted(PROMPTS)
    for sheet in question["sheets"]:
        assert post(f"{where}/votes", votes=votes_for(question, sheet, True))[0] == 200
    assert post(f"{where}/end", how="done")[0] == 200 and get("/posttrain/ratings")["questions"] == []
    (found,) = blind_of("light")
    assert (found["wins"], found["losses"], found["ties"], found["verdict"]) == (6, 0, 0, "better")
    assert found["against"] == {"run": "light", "iteration": 0} and found["iteration"] == 40
    assert "preferred in 6, not in 0, 0 ties; share 100%" in (runs / "light" / "report.md").read_text()


def test_ties_and_both_bad_are_ties_and_what_was_not_judged_counts_nothing(runs):
    question = begin("light", "dark")
    where = f"/posttrain/ratings/{question['id']}"
    first, second, third, *_ = question["sheets"]
    post(f"{where}/votes", tie=0)
    post(f"{where}/votes", votes={str(row): -1 for row in second["rows"]})
    post(f"{where}/votes", votes=votes_for(question, third, False))
    post(f"{where}/votes", votes={str(question["sheets"][3]["rows"][0]): 1})  # half of an answer
    post(f"{where}/end", how="done")
    (found,) = blind_of("light")
    assert (found["wins"], found["losses"], found["ties"], found["verdict"]) == (0, 1, 2, "open")
    assert found["against"] == {"run": "dark", "iteration": 40} and blind_of("dark") == []


def test_the_answers_are_there_when_it_is_asked_again_whatever_the_sides_are_now(runs):
    question = begin("light", "light")
    post(f"/posttrain/ratings/{question['id']}/votes", votes=votes_for(question, question["sheets"][0], True))
    assert begin("light", "light")["id"] == question["id"], "it is open already"
    post(f"/posttrain/ratings/{question['id']}/end", how="done")
    again = begin("light", "light")
    assert again["id"] != question["id"] and sorted(again["votes"].values()) == [-1, 1]
    post(f"/posttrain/ratings/{again['id']}/end", how="done")
    assert [(each["wins"], each["losses"]) for each in blind_of("light")] == [(1, 0)]


def test_an_end_without_an_answer_is_no_result(runs):
    question = begin("light", "light")
    post(f"/posttrain/ratings/{question['id']}/end", how="done")
    assert blind_of("light") == [] and not (runs / "light" / "blind.jsonl").exists()


def test_pictures_that_are_the_same_are_ties_and_nobody_is_asked(runs):
    images = pictures(LIGHT, 40)
    images[:4] = pictures(DARK, 0)[:4]
    keep_compared(runs / "light", 40, images, PROMPTS)
    question = begin("light", "light")
    assert len(question["sheets"]) == 2
    for sheet in question["sheets"]:
        post(f"/posttrain/ratings/{question['id']}/votes", votes=votes_for(question, sheet, True))
    post(f"/posttrain/ratings/{question['id']}/end", how="done")
    (found,) = blind_of("light")
    assert (found["wins"], found["losses"], found["ties"]) == (2, 0, 4)
    keep_compared(runs / "light", 40, pictures(DARK, 0), PROMPTS)
    status, told = post("/posttrain/runs/light/blind", against="light")
    assert status == 400 and "all 6 pictures are the same" in told["error"]


def test_what_cannot_be_compared_is_said_and_is_not_offered(runs):
    keep_compared(make_run(runs, "others"), 40, pictures(LIGHT, 1), ["a tree"] * 6)
    make_run(runs, "without")
    (keep_compared(make_run(runs, "broken"), 40, pictures(LIGHT, 1), PROMPTS)).write_bytes(b"x")
    for against, words in (("others", "not measured on the same held-out prompts"), ("without", "has no pictures of held-out prompts"),
                           ("broken", "cannot be read")):  # fmt: skip
        status, told = post("/posttrain/runs/light/blind", against=against)
        assert status == 400 and words in told["error"] and str(runs) not in told["error"]
    assert post("/posttrain/runs/light/blind", against="nobody")[0] == 404
    assert get("/posttrain/runs/light/report")["others"] == ["light", "dark"]
    assert get("/posttrain/runs/without/report")["others"] == get("/posttrain/runs/broken/report")["others"] == []
