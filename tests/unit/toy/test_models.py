"""The shipped tiny models as stock ComfyUI objects, driven by stock nodes."""
from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

comfy_sd = pytest.importorskip("comfy.sd", reason="needs COMFYUI_DIR")

import comfyui_version  # noqa: E402
from posttrain.nodes import host_version  # noqa: E402
from posttrain.toy import evaluate, models, world  # noqa: E402
from posttrain.toy.prompts import prompt_set  # noqa: E402


@pytest.fixture(scope="module")
def stock():
    """The host's own nodes.py, by its path: the pack has a folder of the same name."""
    spec = importlib.util.spec_from_file_location("comfyui_nodes", Path(os.environ["COMFYUI_DIR"]) / "nodes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clip():
    return models.load_clip()


@pytest.fixture(scope="module", params=["flow", "eps"])
def model(request):
    return models.load_model(request.param)


def test_shipped_weights_fit_in_12_mb():
    sizes = [path.stat().st_size for path in models.WEIGHTS.iterdir()]
    assert len(sizes) == 5 and sum(sizes) <= 12_000_000


def test_models_are_stock_objects(model):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.model_sampling

    assert type(model) is comfy.model_patcher.ModelPatcher
    flow = type(model.model) is comfy.model_base.SD3
    assert flow or type(model.model) is comfy.model_base.BaseModel
    assert isinstance(model.model.model_sampling, comfy.model_sampling.CONST if flow else comfy.model_sampling.EPS)
    assert all(p.isfinite().all() for p in model.model.parameters())


def test_text_encoder_tells_all_prompts_apart(clip, stock):
    conditionings = [stock.CLIPTextEncode().encode(clip, world.caption(s))[0] for s in world.all_specs()]
    tokens = torch.cat([c[0][0] for c in conditionings]).flatten(1)
    pooled = torch.cat([c[0][1]["pooled_output"] for c in conditionings])
    assert tokens.shape[1] == models.TEXT_TOKENS * models.TEXT_WIDTH and pooled.shape[1] == models.TEXT_WIDTH
    apart = torch.pdist(tokens) / tokens.norm(dim=1).mean()
    assert apart.min() > 0.1
    assert torch.pdist(pooled).min() > 1e-3


def test_every_word_has_a_row_of_its_own(clip):
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    for word in world.WORDS:
        for token, _ in clip.tokenize(word)["l"][0]:
            assert table[token].norm() > 1


@pytest.mark.parametrize("load", [models.load_vae, pytest.param(models.older_vae, marks=pytest.mark.skipif(
    host_version.numbers(comfyui_version.__version__) > (0, 3, 75), reason="for hosts before 0.3.60, whose VAE it builds on"))])
def test_vae_round_trip(stock, load):
    vae = load()
    assert type(vae) is comfy_sd.VAE and vae.spacial_compression_decode() == 1
    images = torch.from_numpy(world.render(world.all_specs()[:4], seed=0))
    latent = stock.VAEEncode().encode(vae, images)[0]
    assert latent["samples"].shape == (4, 3, world.SIZE, world.SIZE)
    assert latent["samples"].min() < -0.5  # latents span [-1, 1]
    torch.testing.assert_close(stock.VAEDecode().decode(vae, latent)[0], images, atol=1e-5, rtol=0)


def test_an_empty_latent_of_192_becomes_24_by_24_on_every_host(model, stock):
    """Hosts since 0.12 rescale an empty latent by the ratio of the model's latent format; the older ones have no ratio."""
    import comfy.sample

    empty = stock.EmptyLatentImage().generate(8 * world.SIZE, 8 * world.SIZE, 2)[0]
    latent = comfy.sample.fix_empty_latent_channels(model, *empty.values())
    assert latent.shape == (2, 3, world.SIZE, world.SIZE)
    assert getattr(model.model.latent_format, "spacial_downscale_ratio", 8) == 8


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_stock_sampler_follows_the_prompt_better_than_another_prompt(model, clip, stock, guidance):
    asked, other = world.spec("single", [(1, "red")]), world.spec("single", [(1, "blue")])
    positive, negative = (stock.CLIPTextEncode().encode(clip, text)[0] for text in (world.caption(asked), ""))
    latent = {"samples": torch.zeros(24, 3, world.SIZE, world.SIZE)}
    out = stock.KSampler().sample(model, 5, 12, guidance, "euler", "simple", positive, negative, latent)[0]
    images = stock.VAEDecode().decode(models.load_vae(), out)[0]
    from posttrain.rewards.base.reward import Prompt
    from posttrain.toy.verifier import ToyVerifier

    right, wrong = (ToyVerifier("dense")(images, [Prompt("", s)] * 24).mean() for s in (asked, other))
    assert right > wrong + 0.15


def test_stock_sampler_and_own_loop_agree(model, clip, stock):
    import comfy.sample

    text = "two red balls"
    noise = torch.randn((2, 3, world.SIZE, world.SIZE), generator=torch.Generator().manual_seed(9))
    positive = stock.CLIPTextEncode().encode(clip, text)[0]
    expected = comfy.sample.sample(model, noise, evaluate.STEPS, 1.0, "euler", "simple", positive, positive,
                                   torch.zeros_like(noise), seed=9)
    own = evaluate.draw(model, clip, [text] * 2, seed=9)
    torch.testing.assert_close((expected.movedim(1, -1) / 2 + 0.5).clamp(0, 1), own, atol=2e-4, rtol=0)


def test_the_record_in_the_file_is_what_the_model_does(model, clip):
    kind = "flow" if model.model.adm_channels else "eps"
    record = models.training_record(models.FILES[kind])
    steps = record["steps_done"] + record["before"].get("steps_done", 0)
    assert steps >= 1000 and 0.1 <= record["wrong_share"] <= 0.5 and record["held_out"]["images"] >= 300
    now = evaluate.pass_rate(model, clip, held_out=True, images=90)
    assert abs(now["dense"] - record["held_out"]["dense"]) < 0.12  # 90 images: standard error about 0.03


def test_the_flow_base_fails_on_purpose_but_not_always():
    record = models.training_record(models.FILES["flow"])
    assert 0.40 <= record["held_out"]["strict"] <= 0.65


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="pretrain flow"):
        models.load_model("flow", tmp_path / "none.safetensors")


def test_demo_world_node_gives_everything():
    from posttrain.nodes.demo import MODELS, SCORES, PTDemoWorld

    model, clip, vae, train, held_out, reward = PTDemoWorld().load(next(iter(MODELS)), next(iter(SCORES)))
    assert reward.kind == "mixed" and len(train) == 78 and len(held_out) == 18
    assert not {p.text for p in train.prompts} & {p.text for p in held_out.prompts}
    assert train == prompt_set(held_out=False)
    images = evaluate.draw(model, clip, [train.prompts[0].text] * 2, seed=0, steps=2)
    assert reward(images, train.prompts[:1] * 2).shape == (2,)
    assert vae.latent_channels == 3


def test_demo_edits_node_gives_a_model_that_looks_at_the_picture():
    from posttrain.nodes.demo import EDIT_SCORES, PTDemoEdits

    model, clip, vae, train, held_out, reward = PTDemoEdits().load(EDIT_SCORES[0])
    assert reward.kind == "mixed" and len(train) == 72 and len(held_out) == 36 and vae.latent_channels == 3
    first, other = train.prompts[0], train.prompts[1]
    assert first.text == other.text
    drawn = [evaluate.draw(model, clip, [first.text], 0, sources=prompt.source.read()[None]) for prompt in (first, other)]
    assert not torch.equal(*drawn) and reward(drawn[0], [first]) > reward(drawn[0], [other])


def test_the_shipped_editor_fails_on_purpose_but_not_always():
    record = models.training_record(models.FILES["edit"])
    assert all(0.4 <= record[pictures]["strict"] <= 0.8 for pictures in ("train", "held_out"))
