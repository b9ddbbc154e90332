"""What comes back from other computers, and what stays there."""

from __future__ import annotations

import pickle

import pytest
import torch
from posttrain.trainers.servers import client as api
from posttrain.trainers.servers.client import EMPTY, Client, Form, Lost
from posttrain.trainers.servers.computers import Computers
from posttrain.trainers.servers.drawing import KEPT, LATENT, Drawing, place_of, read_latents
from posttrain.trainers.servers.graph import SAVED, Source
from safetensors.torch import save


def test_latents_are_taken_as_safetensors_of_the_right_shape_alone():
    good = torch.randn(2, 4, 8, 8)
    assert torch.equal(read_latents(save({LATENT: good}), good.shape), good)
    assert read_latents(save({LATENT: good.half()}), good.shape).dtype == torch.float32
    for content, words in [
        (pickle.dumps({LATENT: good}), "are none"),
        (b"", "are none"),
        (save({"other": good}), "are none"),
        (save({LATENT: good})[:-9], "are none"),
        (save({LATENT: good[:1]}), r"\[1, 4, 8, 8\] and not \[2, 4, 8, 8\]"),
        (save({LATENT: good.int()}), "load the same model"),
    ]:
        with pytest.raises(Lost, match=words):
            read_latents(content, good.shape)


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {SAVED: {}},
        {SAVED: {"latents": []}},
        {SAVED: {"latents": [{"filename": "a"}]}},
        {SAVED: None},
        {SAVED: {"latents": [{"filename": 'a"\r\nb', "subfolder": ""}]}},
    ],
)
def test_a_place_that_is_none_is_no_place(outputs):
    with pytest.raises(Lost):
        place_of(outputs)


def test_older_loras_become_empty_and_one_that_is_in_use_the_next_time(monkeypatch):
    emptied, refused = [], []

    def upload(self, form):
        (name,) = [name for name in "abcd" if form.body == Form(name, EMPTY, "output", "loras", overwrite=True).body]
        if name in refused:
            raise Lost("it is open")
        emptied.append(name)

    monkeypatch.setattr(api.Client, "upload", upload)
    drawing = object.__new__(Drawing)
    client = Client("http://127.0.0.1:9")
    drawing.computers = Computers((client.url,), None, Source({}, ("1", 0), ("1", 1)))
    for name in "abab":
        drawing._clear(client, name, "output", "loras")
    assert not emptied and KEPT == 2
    refused.append("a")
    drawing._clear(client, "c", "output", "loras")
    assert not emptied
    refused.clear()
    drawing._clear(client, "d", "output", "loras")
    assert emptied == ["a", "b"] and drawing.computers.sent == {client.url: ["c", "d"]}


def test_a_computer_that_has_had_weights_is_not_looked_at_again(monkeypatch):
    asked = []

    def ask(self, route, body=None, largest=0):
        asked.append(route)
        return {"max_upload_size": 1e9} if route == "/features" else ["a.safetensors"]

    monkeypatch.setattr(api.Client, "upload", lambda self, form: asked.append(form.size) or "a.safetensors")
    monkeypatch.setattr(api.Client, "ask", ask)
    drawing = object.__new__(Drawing)
    drawing.computers = Computers(("http://127.0.0.1:9",), None, Source({}, ("1", 0), ("1", 1)))
    drawing.empty, drawing.form = Form("empty.latent", b"", "input"), api.lora_form("a.safetensors", EMPTY)
    for expected in (["/features", len(EMPTY), "/models/loras"], [len(EMPTY)]):
        asked.clear()
        assert drawing._ready(Client("http://127.0.0.1:9"))["lora"] == "a.safetensors"
        assert asked[1:] == expected  # after the latent, which one that was started again has not kept
