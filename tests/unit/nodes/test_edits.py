"""Prompts with pictures through their nodes: encoded as the host's own nodes do, one for each picture."""

from __future__ import annotations

import pytest
import torch
from posttrain.nodes import edits
from posttrain.nodes.prompts import encode_prompts
from posttrain.rewards.base.reward import Prompt, with_rules
from posttrain.toy import models
from posttrain.toy.edits import prompt_set
from posttrain.trainers.policy.edits import WAYS, of_size
from posttrain.trainers.prompts import PromptSet

REFERENCE, *_, BESIDE = WAYS
FEW = PromptSet(prompt_set(held_out=True).prompts[:2])  # of the same words


@pytest.fixture(scope="module")
def tools():
    return models.load_clip(), models.load_vae()


def test_the_words_are_the_same_and_the_pictures_are_not():
    first, second = FEW.prompts
    assert first.text == second.text and first.key != second.key and not torch.equal(first.source.read(), second.source.read())


@pytest.mark.parametrize("way", WAYS)
def test_each_prompt_holds_its_picture_and_so_does_its_negative(tools, way):
    clip, vae = tools
    encoded = edits.encode_edits(FEW, clip, vae, way, 0.0, "a red ball", guidance=2.5)
    assert len(encoded.positive) == len(encoded.negatives) == 2 and encoded.negative is None
    for number, prompt in enumerate(FEW.prompts):
        for text, conditioning in ((prompt.text, encoded.positive[number]), ("a red ball", encoded.negatives[number])):
            ((tokens, extra),) = conditioning
            assert torch.equal(tokens, clip.encode_from_tokens(clip.tokenize(text))) == (
                "Plus" not in way and "2509" not in way
            )
            (latent,) = extra["reference_latents"] if way != BESIDE else (extra["concat_latent_image"],)
            if way in (REFERENCE, BESIDE):
                assert torch.equal(latent, vae.encode(prompt.source.read()[None]))
            assert extra["guidance"] == 2.5
    first, second = (positive[0][1] for positive in encoded.positive)
    key = "concat_latent_image" if way == BESIDE else "reference_latents"
    assert not torch.equal(torch.stack([*first[key]]), torch.stack([*second[key]]))


def test_the_host_has_no_node_for_it(tools, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "comfy_extras.nodes_edit_model", None)
    with pytest.raises(ValueError, match="^picture_as: this ComfyUI has no node for 'reference latent"):
        edits.encode_edits(FEW, *tools, REFERENCE, 0.0, "")


def test_pictures_and_prompts_without_them_have_a_node_each(tools):
    clip, vae = tools
    with pytest.raises(ValueError, match="^prompts: they carry pictures, .* encode them with Encode Edits"):
        encode_prompts(FEW, clip, "")
    with pytest.raises(ValueError, match="^prompts: 'a cat' carries no picture; .* Encode Prompts"):
        edits.encode_edits(PromptSet((Prompt("a cat"),)), clip, vae, REFERENCE, 1.0, "")


SIZES = [((24, 24), 0.0, (24, 24)), ((2000, 1000), 0.5, (1000, 496)), ((30, 50), 1.0, (32, 48)), ((3, 3), 1.0, (8, 8)),
         ((2000, 1000), 0.0, (2000, 1000))]  # fmt: skip


@pytest.mark.parametrize("sides, megapixels, wanted", SIZES)
def test_large_pictures_are_made_smaller(sides, megapixels, wanted):
    picture = torch.rand(*sides, 3)
    found = of_size(picture, megapixels)
    assert tuple(found.shape) == (*wanted, 3) and (sides != wanted or found is picture)


def test_the_node_reads_a_folder_and_notices_that_it_changed(tmp_path, monkeypatch):
    import folder_paths
    from PIL import Image

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    place = tmp_path / "mine"
    place.mkdir()
    Image.new("RGB", (8, 8), "red").save(place / "a.png")
    (place / "a.txt").write_text("paint it blue")
    before = edits.PTEdits.IS_CHANGED("mine", 10)
    (prompts,) = edits.PTEdits().run("mine", 10)["result"]
    assert prompts.prompts[0].text == "paint it blue" and before == edits.PTEdits.IS_CHANGED("mine", 10)
    (place / "b.txt").write_text("x")
    assert before != edits.PTEdits.IS_CHANGED("mine", 10)


def test_a_text_that_is_said_of_several_pictures_is_not_guessed():
    first, second = FEW.prompts
    assert with_rules([Prompt(first.text)], [first]) == [first]
    with pytest.raises(ValueError, match="is said there of several pictures"):
        with_rules([Prompt(first.text)], [first, second])
    assert with_rules([Prompt("another")], [first, second]) == [Prompt("another")]
