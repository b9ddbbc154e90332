"""One server, as it should be and as it should not: real HTTP servers on this machine."""

from __future__ import annotations

import time

import pytest
from posttrain.trainers.servers import client as api
from posttrain.trainers.servers.client import Client, Lost, Unfit


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
    assert api.send_lora(host.client, api.lora_form("a.safetensors", content)) == "a (1).safetensors"
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
        api.send_lora(start(**answers).client, api.lora_form("a", b"x" * 2048))
