"""Samplers that Ray has started, asked like any other computer."""

from __future__ import annotations

import json

import pytest
from posttrain.nodes.sampling.computers import addresses_of
from posttrain.trainers.servers import actors
from posttrain.trainers.servers.client import Form, Lost, Refused, Unfit, version_of


class Sampler:
    """Answers as it is told; asked: route, body and kind of each request."""

    def __init__(self, status: int = 200, answer: bytes = b"null"):
        self.status, self.answer, self.asked = status, answer, []

    def __call__(self, route, body, kind, seconds):
        self.asked.append((route, body, kind))
        return self.status, self.answer


@pytest.fixture
def lend():
    yield actors.lend
    actors.lend({})


def test_what_is_asked_goes_to_the_actor_and_its_answer_comes_back(lend):
    sampler = Sampler(answer=json.dumps({"system": {"comfyui_version": "0.3.75"}}).encode())
    lend({"ray 0": sampler})
    assert version_of(actors.client_of("ray 0")) == "0.3.75" and [each[:2] for each in sampler.asked] == [
        ("/system_stats", None)
    ]
    assert actors.client_of("http://far:1").send is None


@pytest.mark.parametrize(
    "status, route, kind, words",
    [
        (404, "/nowhere", Refused, "it answers 404"),
        (500, "/queue", Lost, "it answers 500"),
        (413, "/upload/image", Unfit, "smaller LoRA precision"),
        (400, "/prompt", Unfit, "cannot run the graph"),
    ],
)
def test_a_refusal_means_what_a_servers_means(lend, status, route, kind, words):
    lend({"ray 0": Sampler(status, b"no")})
    with pytest.raises(kind, match=words):
        actors.client_of("ray 0").ask(route, {})


def test_one_that_has_died_is_lost(lend):
    def dead(*_):
        raise OSError("the actor has died")

    lend({"ray 0": dead})
    with pytest.raises(Lost, match="the actor has died"):
        actors.client_of("ray 0").ask("/queue")


def test_an_answer_that_is_too_large_is_not_taken(lend):
    lend({"ray 0": Sampler(answer=bytes(11))})
    with pytest.raises(Lost, match="more than 10 bytes"):
        actors.client_of("ray 0").file({"filename": "a", "subfolder": "b"}, 10)


def test_a_file_is_the_same_bytes_for_all_who_get_it(lend):
    lend({f"ray {number}": Sampler(answer=b'{"name": "a"}') for number in range(2)})
    clients = [actors.client_of(name) for name in actors.names()]
    for client in clients:
        client.upload(Form("a.safetensors", bytes(range(200)), "output"))
    first, second = (client.send.asked for client in clients)
    assert first == second and bytes(range(200)) in first[0][1]
    clients[0].upload(Form("a.safetensors", bytes(200), "output"))
    assert first[1] != first[0]


def test_ray_stands_for_all_samplers_and_others_may_stand_beside_it(lend):
    lend({"ray 0": Sampler(), "ray 1": Sampler()})
    assert addresses_of("ray\nhttp://far:1") == ("ray 0", "ray 1", "http://far:1")
    with pytest.raises(ValueError, match="stands there twice"):
        addresses_of("ray\nray")


def test_without_samplers_ray_is_refused_in_words():
    with pytest.raises(ValueError, match="addresses: ray stands for the samplers .* headless.py ray and --samplers"):
        addresses_of("ray")
