"""Audit on the demo world: two models, the same noise, words, a reward, distances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.nodes.prompts import encode_prompts
from posttrain.nodes.sampling import audit as node
from posttrain.nodes.sampling.audit import PTAudit, split, with_word
from posttrain.nodes.sampling.distance import DEMO, embedding_of
from posttrain.rewards.base.prompt import Prompt
from posttrain.toy.judge import demo_judge
from posttrain.toy.models import load_clip, load_model, load_vae
from posttrain.trainers.policy import Recipe, create_policy, policy_as_model
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling import evaluation
from posttrain.trainers.sampling.settings import Sampling
from small_models import off_its_start

SAMPLING = Sampling(steps=3, width=24, height=24, images_per_prompt=3, batch_size=16)
TEXTS = ("a red ball", "two blue balls", "a green ball and a blue ball")


@pytest.fixture(scope="module")
def models():
    """The demo's model, and the same with a LoRA that spoils it."""
    policy = off_its_start(create_policy(load_model("flow"), Recipe(rank=4)), 0.3)
    return load_model("flow"), policy_as_model(policy, 1.0)


@pytest.fixture(scope="module")
def clip():
    return load_clip()


@pytest.fixture(scope="module")
def prompts(clip):
    return encode_prompts(PromptSet(tuple(Prompt(text) for text in TEXTS)), clip, "")


def audited(first, second, prompts, words="", **options):
    return PTAudit().run(first, second, prompts, load_vae(), SAMPLING, words, **options)["result"]


def test_a_model_beside_itself_is_good(models, prompts, clip):
    report, picture, good = audited(models[0], models[0], prompts, "bright", clip=clip, reward=demo_judge())
    assert good is True and report.startswith(
        "No sign that the second model's pictures have been spoilt, in 9 pictures of each"
    )
    rows = {line.split(":")[0]: line for line in report.splitlines()[1:]}
    assert "(+0 ± 0)" in rows["colourfulness"] and "follows prompts, by CLIPScore" in rows
    assert "bright: brightness" in report and picture.shape[0] == 1 and picture.shape[2] == 4 * 288


def test_a_lora_that_spoils_is_told(models, prompts):
    report, picture, good = audited(*models, prompts, reward=demo_judge())
    assert good is False and "much busier or noisier in fine detail" in report.splitlines()[0]
    assert picture.shape[2] == 2 * 288 and picture.shape[1] > 3 * 288
    first, second = picture[0, :288, :288], picture[0, :288, 288:]
    assert (first - second).abs().mean() > 0.02, "the two are drawn side by side"


def test_words_are_asked_with_the_same_noise_and_without_clip_left_out(models, prompts, clip, monkeypatch):
    made = []

    def seen(policy, prompts, *rest, **options):
        found = real(policy, prompts, *rest, **options)
        made.append((tuple(prompt.text for prompt in prompts.prompts), found.seeds.tolist(), found.index.tolist()))
        return found

    real = evaluation.rollout
    monkeypatch.setattr(evaluation, "rollout", seen)
    audited(models[0], models[0], prompts, " vibrant ,, dark, vibrant", clip=clip)
    assert [texts[0] for texts, _, _ in made] == ["a red ball"] * 2 + ["vibrant, a red ball"] * 2 + ["dark, a red ball"] * 2
    assert all(rest == made[0][1:] for _, *rest in made for rest in [tuple(rest)])
    made.clear()
    report, _, _ = audited(models[0], models[0], prompts, "vibrant")
    assert len(made) == 2 and report.endswith("The words were left out: connect clip.")


def test_distances_are_added_and_the_progress_runs_through(models, prompts, clip, monkeypatch):
    told = []
    monkeypatch.setattr(node, "node_progress", lambda *_: lambda done, total, x0: told.append((done, total)))
    report, _, _ = audited(*models, prompts, "dark", clip=clip, distance=embedding_of(DEMO, "auto", "fp32", [], 8))
    assert "\nFID (demo CLIP)" in report and report.splitlines()[-1].startswith("9 images to 9 others")
    assert told == sorted(told) and told[-1][0] == told[-1][1]


def test_the_word_stands_before_the_prompt_and_is_encoded_like_it(prompts, clip):
    found = with_word("vibrant", prompts, clip)
    again = encode_prompts(PromptSet((Prompt("vibrant, two blue balls"),)), clip, "")
    assert torch.equal(found.positive[1][0][0], again.positive[0][0][0]) and found.texts == prompts.texts
    with pytest.raises(ValueError, match="words: it is not known how the prompts were encoded"):
        with_word("vibrant", replace(prompts, texts=None), clip)
    assert split("a, b ,,a") == ["a", "b"] and split(" ") == []
