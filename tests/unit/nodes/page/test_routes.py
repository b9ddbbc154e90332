"""Every route of the pack against malformed paths, queries, bodies, methods and origins: answered in words, nothing told."""

from __future__ import annotations

import asyncio
import json
import os
import random
from itertools import product
from urllib.parse import quote

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from posttrain.nodes.page import address, blind, elsewhere, live, open_folder, own_page, question, rating, shelf, steer
from posttrain.rewards.base.pixels import png_bytes
from posttrain.rewards.person.by_hand import BEST_AND_WORST, MODES, Sheet
from posttrain.tests.unit.nodes.page.test_live import make_run
from posttrain.trainers.data.vote_book import VoteBook
from yarl import URL

SECRET = "a secret of this machine"
PARTS = [
    "..",
    ".",
    "",
    "%2e%2e",
    "..%2f..",
    "%00",
    "a%00b",
    "first%0a",
    "%ff",
    "%ed%b2%80",
    "a" * 2000,
    "C%3a",
    "first%5c..",
    "con",
    "first%2f..%2fsecret",
    "linked",
    "1e9",
    "-1",
    "9" * 2000,
    "0x1",
    "%d9%a1",
    "iteration_000001.webp",
    "iteration_000009.webp",
    "iteration_000008.webp",
    "config.json",
    "..%2fconfig.json",
    "iteration_%d9%a1.webp",
    "first",
    "piped",
    "<script>",
    "%e2%80%a8",
    "*",
    "~",
    "nan",
]
BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"5",
    b'"x"',
    b"\xff\xfe",
    b"{}",
    b'{"votes": 5}',
    b'{"votes": {"0": 2}}',
    b'{"votes": {"0": true}}',
    b'{"votes": {"x": 1}}',
    b'{"votes": {"99": 1}}',
    b'{"votes": {"0": [1]}}',
    b'{"votes": {"0": null}}',
    b'{"votes": {"0": {}}}',
    b'{"votes": {"' + b"9" * 5000 + b'": 1}}',
    b'{"votes": {"0": 1e999}}',
    b'{"votes": {"-1": 1}}',
    b'{"votes": {"\\ud800": 1}}',
    b'{"votes": {"0": 1}, "client": 5}',
    b'{"tie": 0}',
    b'{"tie": 99}',
    b'{"tie": -1, "client": "a"}',
    b'{"client": 5}',
    b'{"client": ""}',
    b'{"client": "a", "done": 99}',
    b'{"client": "a", "done": -1}',
    b'{"client": "a", "done": true}',
    b'{"client": "a", "done": 1e999}',
    b'{"client": "' + b"x" * 5000 + b'"}',
    b'{"how": 5}',
    b'{"how": "x"}',
    b'{"how": ""}',
    b'{"how": "' + b"x" * 100_000 + b'"}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"address": 5}',
    b'{"address": "https://x-host"}',
    b'{"address": "file:///etc/passwd"}',
    b'{"address": ""}',
    b'{"address": "\\u0000"}',
    b'{"do": 5}',
    b'{"do": "x"}',
    b'{"do": "pause"}',
    b'{"do": "learning rate", "value": "x"}',
    b'{"name": "../outside"}',
    b'{"name": "\\ud800"}',
    b'{"name": ""}',
    b'{"pinned": 1}',
    b'{"note": 5}',
    b'{"note": "' + b"x" * 5000 + b'"}',
    b'{"delete": "x"}',
    b'{"delete": ""}',
    b'{"to": "tensorboard"}',
    b'{"to": "x"}',
    b'{"against": 5}',
    b'{"against": "first"}',
    b'{"against": "../outside"}',
    b'{"against": "\\ud800"}',
]
TYPES = ["application/json", "text/plain", "application/json; charset=none", "multipart/form-data; boundary=x", ""]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]
SITES = [None, "same-origin", "same-site", "none", "cross-site", "x" * 1000]
ROUTES = [
    "/posttrain",
    "/posttrain/runs",
    "/posttrain/runs/{}",
    "/posttrain/runs/{}?since={}",
    "/posttrain/runs/{}/samples/{}",
    "/posttrain/ratings",
    "/posttrain/ratings/{}/images/{}",
    "/posttrain/ratings/{}/votes",
    "/posttrain/ratings/{}/take",
    "/posttrain/ratings/{}/end",
    "/posttrain/addresses",
    "/posttrain/pages",
    "/posttrain/questions",
    "/posttrain/questions/{}",
    "/posttrain/runs/{}/steer",
    "/posttrain/runs/{}/metrics.csv",
    "/posttrain/runs/{}/workflow",
    "/posttrain/runs/{}/report",
    "/posttrain/runs/{}/blind",
    *(f"/posttrain/elsewhere/{{}}/{name}" for name in ("say", "file", "hear")),
    *(f"/posttrain/runs/{{}}/{name}" for name in ("rename", "pin", "note", "delete", "export", "open")),
]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two runs, a link to a folder outside, samples that are links and pipes, and a question that waits."""
    import folder_paths

    root = tmp_path / "output" / "posttrain"
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    monkeypatch.setattr(open_folder, "show", lambda folder: None)
    samples = make_run(root) / "samples"
    (samples / "iteration_000001.webp").write_bytes(b"picture")
    for number, target in (("9", tmp_path / "secret"), ("8", tmp_path)):
        (samples / f"iteration_00000{number}.webp").symlink_to(target)
    (tmp_path / "secret").write_text(SECRET)
    make_run(tmp_path / "outside", "linked", id=SECRET)
    (root / "linked").symlink_to(tmp_path / "outside" / "linked")
    piped = make_run(root, "piped", points=0)
    (piped / "metrics.jsonl").unlink()
    os.mkfifo(piped / "metrics.jsonl")
    images = {row: png_bytes(torch.rand(4, 4, 3)) for row in range(2)}
    question = rating.RatingRequest("cats", MODES[0], [Sheet("a", (0, 1))], images, VoteBook(tmp_path / "votes"), id="open")
    monkeypatch.setitem(rating._open, "open", question)
    return tmp_path


def asked(requests, *, register=(live, rating, address, steer, shelf, question, own_page, open_folder, blind, elsewhere)):
    """requests: (method, path, options) -> [(status, headers, body)] of a real server with the pack's routes."""

    async def run():
        routes = web.RouteTableDef()
        for module in register:
            module.register_routes(_Table(routes))
        app = web.Application(client_max_size=1 << 20)
        app.add_routes(routes)
        found = []
        async with TestClient(TestServer(app)) as client:
            for method, path, options in requests:
                url = URL(str(client.make_url("/")).rstrip("/") + path, encoded=True)
                async with client.session.request(method, url, timeout=3, allow_redirects=False, **options) as answer:
                    found.append((answer.status, dict(answer.headers), await answer.read()))
        return found

    return asyncio.run(run())


class _Table:
    """The host's table is used as ``routes.get(path)(handler)``."""

    def __init__(self, routes):
        self.get, self.post = routes.get, routes.post


def generated(count: int):
    """Every route with every malformed part and body once; then mixtures of all, chosen by a fixed seed."""
    choose = random.Random(0)

    def options(body=b"", kind="", site=None):
        headers = {"Content-Type": kind} | ({} if site is None else {"Sec-Fetch-Site": site})
        return {"data": body, "headers": headers}

    for route, part in product(ROUTES, PARTS):
        for known in ("first", "open", part):
            yield "GET", route.format(*([known] * (route.count("{}") - 1)), part), options()
    for route, body in product(
        [
            route
            for route in ROUTES
            if route.endswith(
                (
                    "votes",
                    "take",
                    "end",
                    "addresses",
                    "steer",
                    "rename",
                    "pin",
                    "note",
                    "delete",
                    "open",
                    "blind",
                    "pages",
                    "questions/{}",
                )
            )
        ],
        BODIES,
    ):
        for known in ("open", "first") if "/runs/" in route else ("open",):
            yield "POST", route.format(known), options(body, TYPES[0])
    for _ in range(count):
        route = choose.choice(ROUTES)
        parts = [choose.choice([*PARTS, "open", "first", "0"]) for _ in range(route.count("{}"))]
        yield (
            choose.choice(METHODS),
            route.format(*parts),
            options(choose.choice(BODIES), choose.choice(TYPES), choose.choice(SITES)),
        )


def test_every_route_answers_malformed_requests_in_words(world):
    requests = list(generated(int(os.environ.get("POSTTRAIN_REQUESTS", "600"))))
    before = {
        path: path.read_bytes()
        for path in world.rglob("*")
        if path.is_file() and not path.is_symlink() and "votes" not in str(path)
    }
    answers = asked(requests)
    statuses = {}
    for (method, path, _), (status, _, body) in zip(requests, answers):
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500, (method, path, status, body[:300])
        text = body.decode("utf-8", "replace")
        assert SECRET not in text and str(world) not in text and len(body) < 5000, (method, path, text[:300])
        if status in (400, 403, 404) and "json" in str(answers[0][1]) and text.startswith("{"):
            assert json.loads(text)["error"]
    assert {200, 400, 403, 404, 405} <= statuses.keys() and len(answers) == len(requests) > 1200
    assert not (world / "posttrain.json").exists(), "an address that no workflow has asked for was allowed"
    assert before == {path: path.read_bytes() for path in before}


def test_a_vote_is_taken_and_a_foreign_site_is_not_heard(world):
    body = json.dumps({"votes": {"0": 1}}).encode()
    for site, status in (("cross-site", 403), ("same-origin", 200), (None, 200)):
        headers = {} if site is None else {"Sec-Fetch-Site": site}
        ((found, _, text),) = asked([("POST", "/posttrain/ratings/open/votes", {"data": body, "headers": headers})])
        assert found == status
        assert (world / "votes" / "votes.jsonl").exists() is (status == 200)


def test_two_pages_rate_one_question_by_the_routes(world, monkeypatch):
    sheets = [Sheet("a", (0,)), Sheet("b", (1,))]
    images = {row: png_bytes(torch.rand(4, 4, 3)) for row in range(2)}
    two = rating.RatingRequest("cats", MODES[0], sheets, images, VoteBook(world / "two"), id="two")
    monkeypatch.setitem(rating._open, "two", two)

    def post(route, **body):
        ((status, _, text),) = asked([("POST", f"/posttrain/ratings/two/{route}", {"data": json.dumps(body).encode()})])
        return status, json.loads(text)

    assert [post("take", client=who)[1]["sheet"] for who in ("tab", "phone", "tab")] == [0, 1, 0]
    assert post("votes", votes={"0": 1}, client="tab")[0] == 200
    status, told = post("votes", votes={"0": -1}, client="phone")
    assert status == 400 and "somebody else is rating these images" in told["error"]
    assert post("votes", votes={"1": 1}, client="phone")[0] == 200
    assert post("take", client="tab") == (200, {"sheet": None, "trail": [0], "left": 0, "elsewhere": 0})
    votes = [json.loads(line)["vote"] for line in (world / "two" / "votes.jsonl").read_text().splitlines()]
    assert votes == [1, 1], "the vote of each once, and the refused one not at all"


def test_a_tie_and_both_bad_are_verdicts_and_a_tie_is_there_tomorrow(world, monkeypatch):
    from posttrain.rewards.person.taste import Verdict
    from posttrain.trainers.data.verdicts import read_verdicts

    images = {row: png_bytes(torch.rand(4, 4, 3)) for row in range(5)}
    sheets = [Sheet("a", (0, 1)), Sheet("b", (2, 3)), Sheet("c", (4,))]

    def question():
        return rating.RatingRequest("cats", BEST_AND_WORST, sheets, images, VoteBook(world / "ties"), id="ties")

    monkeypatch.setitem(rating._open, "ties", question())

    def post(**body):
        ((status, _, text),) = asked([("POST", "/posttrain/ratings/ties/votes", {"data": json.dumps(body).encode()})])
        return status, json.loads(text)

    assert post(tie=0, client="tab")[1]["ties"] == [0] and post(votes={"2": -1, "3": -1}, client="tab")[0] == 200
    assert post(tie=0, client="phone")[0] == 400, "only one's own"
    status, told = post(tie=2)
    assert status == 400 and "only a sheet of two images" in told["error"]
    _, found, _ = read_verdicts(world / "ties" / "votes.jsonl")
    assert [(v.second is None, v.share) for v in found] == [(False, 0.5), (True, 0.0), (True, 0.0)]
    tomorrow = question()
    assert tomorrow.ties == {0} and tomorrow.is_judged(0) and tomorrow.is_judged(1) and isinstance(found[0], Verdict)
    assert post(votes={"0": 1, "1": -1}, client="tab")[1]["ties"] == [] and question().ties == set()


@pytest.mark.parametrize("alike", [True, False])
def test_a_pair_comes_back_turned_round_and_its_answer_is_no_vote(world, monkeypatch, alike):
    folder, earlier = world / "again", [png_bytes(torch.rand(4, 4, 3)) for _ in range(20)]
    sheets = [Sheet("a", (row, row + 1)) for row in range(0, 20, 2)]
    before = rating.RatingRequest("cats", BEST_AND_WORST, sheets, dict(enumerate(earlier)), VoteBook(folder))
    before.vote({row: 1 if row % 2 else -1 for row in range(20)})
    assert len(before.sheets) == 10 and before.result() == before.votes
    lines = (folder / "votes.jsonl").read_text()

    new = {row: png_bytes(torch.rand(4, 4, 3)) for row in range(2)}
    question = rating.RatingRequest("cats", BEST_AND_WORST, [Sheet("b", (0, 1))], new, VoteBook(folder), id="again")
    monkeypatch.setitem(rating._open, "again", question)
    (back,) = (sheet for sheet in question.sheets if sheet.rows != (0, 1))
    left, right = back.rows
    images = asked([("GET", f"/posttrain/ratings/again/images/{row}", {}) for row in back.rows])
    places = [earlier.index(body) for _, _, body in images]
    assert back.prompt == "a" and question.votes == {} and places[0] == places[1] + 1, "turned round, and without the answer"
    better = left if alike else right
    body = {"votes": {str(row): 1 if row == better else -1 for row in back.rows}}
    ((status, _, text),) = asked([("POST", "/posttrain/ratings/again/votes", {"data": json.dumps(body).encode()})])
    assert status == 200 and json.loads(text)["consistency"] == {"alike": int(alike), "of": 1}
    assert question.is_judged(question.sheets.index(back)) and question.result() == {}
    assert (folder / "votes.jsonl").read_text() == lines, "the first answer stands"


def test_a_foreign_site_is_heard_where_the_user_wants_it(world, monkeypatch):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "enable_cors_header", "*")
    ((status, _, _),) = asked([("GET", "/posttrain/ratings", {"headers": {"Sec-Fetch-Site": "cross-site"}})])
    assert status == 200


def test_what_a_workflow_asked_for_is_allowed_by_the_users_yes_and_kept(world):
    from posttrain.nodes.access import AddressNotAllowed

    url = "https://judge-host/v1"
    request = ("POST", "/posttrain/addresses", {"data": json.dumps({"address": "https://judge-host:443"}).encode()})
    assert asked([request])[0][0] == 404
    with pytest.raises(AddressNotAllowed):
        address.check_and_ask(url)
    assert [answer[0] for answer in asked([request, request])] == [200, 404]
    address.check_and_ask(url)
    assert json.loads((world / "posttrain.json").read_text()) == {"addresses": ["https://judge-host:443"]}


def test_a_run_is_steered_by_its_route_while_it_trains_and_told_why_not_otherwise(world):
    from posttrain.trainers.run.steering import Steering

    def order(**body):
        ((status, _, text),) = asked([("POST", "/posttrain/runs/first/steer", {"data": json.dumps(body).encode()})])
        return status, json.loads(text)

    status, told = order(do="pause")
    assert status == 404 and "not being trained by this ComfyUI at the moment; queue its workflow" in told["error"]
    with Steering(world / "output" / "posttrain" / "first") as steering:
        steering.numbers = {"learning rate": 0.1}
        assert order(do="pause") == (200, {"paused": False, "asked": ["pause"], "numbers": {"learning rate": 0.1}})
        assert order(do="learning rate", value=0.2)[1]["asked"] == ["pause", "learning rate"]
        assert order(do="go on")[1]["asked"] == ["learning rate"] and steering.take_numbers() == {"learning rate": 0.2}
        assert [order(do="jump")[0], order(do="KL weight", value=1)[0], order()[0]] == [400, 400, 400]
        ((status, _, text),) = asked([("GET", "/posttrain/runs/first/steer", {})])
        assert status == 200 and json.loads(text)["asked"] == []


def test_messages_of_a_run_hold_no_full_path(world):
    for kind in ("message", "error", "end"):
        live.emit(
            kind,
            "first",
            "1",
            text=f"The state could not be saved in {world}/output/posttrain/first: disk full.",
            level="warning",
        )
    live.emit("message", "first", "1", text="x" * 1_000_000)
    run = json.loads(asked([("GET", f"/posttrain/runs/{quote('first')}", {})])[0][2])
    assert len(run["messages"]) == 3 and "could not be saved in first: disk full" in run["messages"][0]["text"]
    assert str(world) not in json.dumps(run) and len(json.dumps(run)) < 10_000
