"""The judge's server side against a real HTTP server on this machine that answers, hangs, dies or talks nonsense."""
from __future__ import annotations

import base64
import io
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image
from posttrain.rewards.base.reward import Prompt, RewardUnavailable, score
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.vlm import judge
from posttrain.rewards.vlm.server import KEY_URL_VARIABLE, KEY_VARIABLE, Server, Turns

IMAGES = torch.stack([torch.full((8, 12, 3), v) for v in (0.2, 0.4, 0.8)])
PROMPTS = [Prompt("a cat")] * 3


class Host(ThreadingHTTPServer):
    """behave(host, body) -> (status, bytes) or raises; requests are kept."""

    daemon_threads = True

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.requests, self.headers = behave, [], []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        pass  # clients that gave up


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        status, answer = self.server.behave(self.server, body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


def level(body) -> float:
    """The brightness of the picture in a request: it must have arrived whole."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    return image.convert("L").getpixel((0, 0)) / 255


def logprob_answer(host, body):
    p = level(body)
    top = [{"token": " Yes", "logprob": math.log(p * 0.5)}, {"token": "yes", "logprob": math.log(p * 0.25)},
           {"token": "No", "logprob": math.log((1 - p) * 0.75)}, {"token": "maybe", "logprob": -1.4}]
    return 200, json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}, "message": {"content": "Yes"}}]}).encode()


def text_answer(host, body):
    text = ["**Yes**, it does.", "no.", "Yes", "I cannot say"][len(host.requests) % 4]
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def start():
    hosts = []

    def run(behave):
        hosts.append(Host(behave))
        return hosts[-1]

    yield run
    for host in hosts:
        host.shutdown()
        host.server_close()


def reward_of(host, **settings) -> judge.JudgeReward:
    return judge.JudgeReward(Server(host.url, "judge", **{"timeout": 2.0, "wait": 0.01, "tries": 3} | settings))


def test_logprobs_become_probabilities(start):
    host = start(logprob_answer)
    assert torch.allclose(reward_of(host)(IMAGES, PROMPTS), torch.tensor([0.2, 0.4, 0.8]), atol=0.003)
    sent = host.requests[0]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["logprobs"]) == ("judge", 1, 0, True)
    assert '"a cat"' in sent["messages"][0]["content"][1]["text"]


def test_server_without_logprobs_is_asked_several_times(start):
    host = start(text_answer)
    value = reward_of(host, samples=4)(IMAGES[:1], PROMPTS[:1])
    assert value.item() == pytest.approx(2 / 3) and len(host.requests) == 5


def test_several_judges_as_one_reward(start):
    """A judge that reports probabilities and one that only talks, weighted; where one is gone, so is the mix."""
    sure, talks = start(logprob_answer), start(text_answer)
    both = WeightedSum(((reward_of(sure), 0.5), (reward_of(talks, samples=4), 0.5)))
    scores = score(both, IMAGES[:1], PROMPTS[:1], [0])
    assert scores.members["VLM yes or no"].item() == pytest.approx(0.2, abs=0.003)
    assert scores.members["VLM yes or no 2"].item() == pytest.approx(2 / 3)
    assert scores.values.item() == pytest.approx((0.2 + 2 / 3) / 2, abs=0.003)
    talks.behave = lambda host, body: (200, b"")
    with pytest.raises(RewardUnavailable):
        score(both, IMAGES[:1], PROMPTS[:1], [0])


def of_all(hosts, **settings) -> judge.JudgeReward:
    return judge.JudgeReward(Server(", ".join(host.url for host in hosts), "judge",
                                    **{"timeout": 2.0, "wait": 0.01, "tries": 2} | settings))


def test_several_servers_share_the_questions(start):
    hosts = [start(logprob_answer) for _ in range(3)]
    assert torch.allclose(of_all(hosts)(IMAGES.repeat(4, 1, 1, 1), PROMPTS * 4), torch.tensor([0.2, 0.4, 0.8] * 4), atol=0.003)
    assert [len(host.requests) for host in hosts] == [4, 4, 4]


def test_the_server_of_this_machine_is_asked_first_as_long_as_it_has_room():
    far, near = "http://10.0.0.2:8000/v1", "http://127.0.0.1:8000/v1"
    turns = Turns([far, near], 2)
    with turns.taken(0, set()) as first, turns.taken(1, set()) as second, turns.taken(2, set()) as third:
        assert [first, second, third] == [near, near, far]
    with turns.taken(0, {near}) as another:
        assert another == far
    turns.failed[near] = time.monotonic()
    with turns.taken(1, set()) as after:
        assert after == far


@pytest.mark.parametrize("broken", [lambda host, body: (500, b"down"), lambda host, body: (404, b"no such model"),
                                    lambda host, body: (200, b"nonsense")], ids=["down", "refuses", "nonsense"])
def test_a_server_that_is_lost_costs_no_answer(start, broken):
    good, lost = start(logprob_answer), start(broken)
    values = of_all([lost, good], at_once=1)(IMAGES.repeat(4, 1, 1, 1), PROMPTS * 4)
    assert torch.allclose(values, torch.tensor([0.2, 0.4, 0.8] * 4), atol=0.003)
    assert len(good.requests) == 12 and len(lost.requests) <= 2  # then it is left to rest


def test_a_slow_server_holds_up_only_as_many_questions_as_it_may_have(start):
    """Answers come in the questions' order all the same."""
    lock, most = threading.Lock(), {}

    def counted(seconds):
        def behave(host, body):
            with lock:
                host.busy = getattr(host, "busy", 0) + 1
                most[host.url] = max(host.busy, most.get(host.url, 0))
            time.sleep(seconds)
            with lock:
                host.busy -= 1
            return logprob_answer(host, body)

        return behave

    slow, quick = start(counted(0.6)), start(counted(0.01))
    values = of_all([slow, quick], at_once=2)(IMAGES.repeat(8, 1, 1, 1), PROMPTS * 8)
    assert torch.allclose(values, torch.tensor([0.2, 0.4, 0.8] * 8), atol=0.003)
    assert most[slow.url] == most[quick.url] == 2 and len(slow.requests) <= 6 < 18 <= len(quick.requests)


def test_an_address_that_stands_there_twice_is_one_server():
    assert Server("http://127.0.0.1:1/v1, http://127.0.0.1:1/v1", "judge").urls == ["http://127.0.0.1:1/v1"]


def test_where_all_servers_are_lost_the_run_pauses(start):
    hosts = [start(lambda host, body: (500, b"down")) for _ in range(2)]
    with pytest.raises(RewardUnavailable):
        of_all(hosts)(IMAGES, PROMPTS)
    assert all(len(host.requests) == 6 for host in hosts)  # each question, at each server, twice


def test_each_of_several_addresses_is_looked_at():
    with pytest.raises(ValueError, match="url must begin with http"):
        Server("http://127.0.0.1:1/v1, file:///etc/passwd", "judge")
    with pytest.raises(ValueError, match="url"):
        Server("http://127.0.0.1:1/v1,", "judge")


def test_large_images_are_sent_small(start):
    host = start(logprob_answer)
    reward_of(host, side=64)(torch.full((1, 300, 600, 3), 0.5), PROMPTS[:1])
    url = host.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).size == (64, 32)


def test_a_hiccup_is_overcome_by_trying_again(start):
    def hiccup(host, body):
        return (503, b"busy") if len(host.requests) <= 2 else logprob_answer(host, body)

    assert not reward_of(start(hiccup), at_once=1)(IMAGES, PROMPTS).isnan().any()


def test_one_bad_answer_fails_one_image(start):
    def picky(host, body):
        return (200, b"<html>oops") if level(body) > 0.7 else logprob_answer(host, body)

    host = start(picky)
    scores = score(reward_of(host), IMAGES, PROMPTS, [0, 0, 0])
    assert scores.values.isnan().tolist() == [False, False, True] and len(host.requests) == 2 + 3


@pytest.mark.parametrize("garbage", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}',
                                     b'{"choices": [{"message": {"content": "As an AI"}}]}', b"\xff\xfe\x00"])
def test_garbage_for_every_image_stops_the_run(start, garbage):
    host = start(lambda h, body: (200, garbage))
    with pytest.raises(RewardUnavailable, match="3 of 3 questions unanswered after 3 tries.*goes on from its saved state"):
        reward_of(host)(IMAGES, PROMPTS)


def test_server_that_hangs(start):
    def hang(host, body):
        time.sleep(5)
        return logprob_answer(host, body)

    begun = time.monotonic()
    with pytest.raises(RewardUnavailable, match="timed out"):
        reward_of(start(hang), timeout=0.3, tries=2)(IMAGES, PROMPTS)
    assert time.monotonic() - begun < 4


def test_server_that_drips_its_answer(start):
    host = start(lambda h, body: (200, b""))

    def drip(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    host.RequestHandlerClass = type("Drip", (Handler,), {"do_POST": drip})
    begun = time.monotonic()
    with pytest.raises(RewardUnavailable, match="did not end in time"):
        reward_of(host, timeout=0.5, tries=1)(IMAGES, PROMPTS)
    assert time.monotonic() - begun < 3


def test_server_that_dies_in_mid_run_and_comes_back(start):
    host = start(logprob_answer)
    reward = reward_of(host)
    first = reward(IMAGES, PROMPTS)
    port = host.server_address[1]
    host.shutdown()
    host.server_close()
    with pytest.raises(RewardUnavailable, match="refused"):
        reward(IMAGES, PROMPTS)
    back = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    back.behave, back.requests, back.headers = logprob_answer, [], []
    threading.Thread(target=back.serve_forever, daemon=True).start()
    assert torch.equal(reward(IMAGES, PROMPTS), first)
    back.shutdown()
    back.server_close()


def test_connection_cut_in_the_middle(start):
    host = start(lambda h, body: (200, b""))

    def cut(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')

    host.RequestHandlerClass = type("Cut", (Handler,), {"do_POST": cut})
    with pytest.raises(RewardUnavailable):
        reward_of(host)(IMAGES, PROMPTS)


def test_a_refusal_is_not_tried_again_and_says_why(start):
    host = start(lambda h, body: (404, b'{"error": "model judge does not exist"}'))
    with pytest.raises(RewardUnavailable, match="404.*model judge does not exist"):
        reward_of(host, at_once=1)(IMAGES[:1], PROMPTS[:1])
    assert len(host.requests) == 1


def test_an_endless_answer_is_cut(start):
    host = start(lambda h, body: (200, b" " * (9 << 20)))
    with pytest.raises(RewardUnavailable, match="too long"):
        reward_of(host, tries=1)(IMAGES[:1], PROMPTS[:1])


def test_cancel_returns_at_once(start):
    import comfy.model_management as management

    def hang(host, body):
        time.sleep(8)
        return logprob_answer(host, body)

    host = start(hang)
    threading.Timer(0.3, management.interrupt_current_processing).start()
    begun = time.monotonic()
    with pytest.raises(management.InterruptProcessingException):
        reward_of(host, timeout=10)(IMAGES, PROMPTS)
    assert time.monotonic() - begun < 2
    asked = len(host.requests)
    time.sleep(0.2)
    assert len(host.requests) == asked


def test_the_key_goes_only_to_the_address_beside_it(start, monkeypatch):
    host, other = start(logprob_answer), start(logprob_answer)
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    monkeypatch.setenv(KEY_URL_VARIABLE, host.url)
    for h in (host, other):
        reward_of(h)(IMAGES[:1], PROMPTS[:1])
    assert host.headers[0]["Authorization"] == "Bearer secret" and "Authorization" not in other.headers[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(start, monkeypatch, status):
    """Neither pictures nor the key go where the server that the user knows sends them."""
    other = start(logprob_answer)
    host = start(lambda h, body: (200, b""))

    def elsewhere(self):
        self.send_response(status)
        self.send_header("Location", f"{other.url}/chat/completions")
        self.send_header("Content-Length", "0")
        self.end_headers()

    host.RequestHandlerClass = type("Elsewhere", (Handler,), {"do_POST": elsewhere, "do_GET": elsewhere})
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    monkeypatch.setenv(KEY_URL_VARIABLE, host.url)
    with pytest.raises(RewardUnavailable, match="it sends requests on to .*type that address"):
        reward_of(host)(IMAGES[:1], PROMPTS[:1])
    assert not other.requests and not other.headers


def test_this_machine_is_asked_without_a_proxy(start, monkeypatch):
    """Pictures for a judge on this machine do not leave it, whatever proxy the environment names."""
    host, proxy = start(logprob_answer), start(logprob_answer)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    reward_of(host)(IMAGES[:1], PROMPTS[:1])
    assert len(host.requests) == 1 and not proxy.requests


@pytest.mark.parametrize("logprob", [1e6, 710.0, 0.5, float("nan"), float("inf"), "x", None, [], 10**400])
def test_an_absurd_log_probability_is_no_answer(start, logprob):
    """Neither believed nor an OverflowError: the judge is paused, and the run can go on later."""
    top = [{"token": "yes", "logprob": logprob}, {"token": "no", "logprob": -1.0}]
    answer = json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}, "message": {"content": "Yes"}}]}).encode()
    with pytest.raises(RewardUnavailable, match="1 of 1 questions unanswered"):
        reward_of(start(lambda host, body: (200, answer)))(IMAGES[:1], PROMPTS[:1])


def test_probabilities_that_add_up_to_more_than_1_are_no_answer(start):
    top = [{"token": token, "logprob": -0.1} for token in ("yes", "no", "maybe")]
    answer = json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}).encode()
    with pytest.raises(RewardUnavailable, match="more than 1"):
        reward_of(start(lambda host, body: (200, answer)))(IMAGES[:1], PROMPTS[:1])


@pytest.mark.parametrize("settings, message", [(("ftp://x", "m"), "url must begin"), (("http://localhost", " "), "model")])
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Server(*settings)
