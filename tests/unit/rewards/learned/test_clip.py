"""CLIP rewards on random weights against open_clip, in both namings; golden 07d; bad input."""
from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from posttrain.rewards.base.report import headline
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned.clip import build_clip, load_tokenizer, tokenize, transformers_names
from posttrain.rewards.learned.clip_rewards import KINDS, ClipReward, cosines, image_features
from posttrain.rewards.learned.preprocess import Geometry, preprocess
from safetensors.torch import save_file

from ..networks import picture, tiny_open_clip

TEXTS = ["a photo of a cat", "two dogs, oil painting", ""]


def saved(tmp_path, network, naming: str, wrapped: bool = False) -> Path:
    weights = {k: v.contiguous() for k, v in network.state_dict().items()}
    if naming == "transformers":
        weights = {k: v.contiguous() for k, v in transformers_names(weights).items()}
    if wrapped:
        torch.save({"state_dict": weights, "epoch": 1}, tmp_path / "clip.pt")
        return tmp_path / "clip.pt"
    save_file(weights, tmp_path / "clip.safetensors")
    return tmp_path / "clip.safetensors"


def reward_of(path, kind="CLIPScore", activation="gelu", precision="fp32", **settings) -> ClipReward:
    holder = holders.Holder(lambda: build_clip(path, activation), precision)
    return ClipReward(kind, holder, holders.clip_tokenizer_folder(), **settings)


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("naming", ["open_clip", "transformers"])
def test_towers_equal_open_clip(tmp_path, naming, quick_gelu):
    import open_clip

    theirs = tiny_open_clip(quick_gelu)
    ours = build_clip(saved(tmp_path, theirs, naming), "quick_gelu" if quick_gelu else "gelu")
    pixels = preprocess(torch.cat([picture(80, 56), picture(80, 56, 1), picture(80, 56, 2)]), Geometry(56))
    ids, cut = tokenize(load_tokenizer(holders.clip_tokenizer_folder()), TEXTS, 77)
    assert torch.equal(ids, open_clip.get_tokenizer("ViT-H-14")(TEXTS)) and not cut
    from posttrain.rewards.learned.hub import pooled
    with torch.no_grad():
        assert torch.allclose(pooled(ours.get_image_features(pixel_values=pixels)), theirs.encode_image(pixels), atol=1e-5)
        assert torch.allclose(pooled(ours.get_text_features(input_ids=ids)), theirs.encode_text(ids), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_the_published_formula_over_open_clip(tmp_path, kind):
    """Geometry, normalisation, logit scale: all written again here."""
    import open_clip

    theirs = tiny_open_clip()
    path = saved(tmp_path, theirs, "open_clip", wrapped=kind.startswith("HPS"))
    images, prompts = torch.cat([picture(90, 60, i) for i in range(3)]), [Prompt(t) for t in TEXTS]
    x = images.movedim(-1, 1)
    if kind.startswith("HPS"):
        x = F.interpolate(x, (56, 37), mode="bicubic", antialias=True).clamp(0, 1)
        x = F.pad(x, (9, 10, 0, 0))
    else:
        x = F.interpolate(x, (84, 56), mode="bicubic", antialias=True).clamp(0, 1)[:, :, 14:70]
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        image = theirs.encode_image(x, normalize=True)
        text = theirs.encode_text(open_clip.get_tokenizer("ViT-H-14")(TEXTS), normalize=True)
    expected = (image * text).sum(-1) * (100 if kind == "PickScore" else 1)
    scores = reward_of(path, kind, batch_size=2)(images, prompts)
    assert torch.allclose(scores, expected, atol=1e-5 * (100 if kind == "PickScore" else 1))


def test_golden_heads(golden):
    gold = golden("07d")
    pick = cosines(gold["pick.in.image_embeds"], gold["pick.in.text_embeds"]) * gold["const.logit_scale_log"].exp()
    assert torch.allclose((pick / 26).float(), gold["pick.out.flow_grpo_score"], atol=1e-5)
    prompt0 = gold["pick.in.text_embeds"][:1].expand(4, -1)
    all_images = cosines(gold["pick.in.image_embeds"], prompt0) * gold["const.logit_scale_log"].exp()
    assert torch.allclose(all_images.float(), gold["pick.out.scores_prompt0_all_images"], atol=1e-4)
    assert torch.allclose(all_images.softmax(0).float(), gold["pick.out.probs_prompt0_all_images"], atol=1e-5)
    assert torch.allclose(cosines(gold["hps.in.image_features"], gold["hps.in.text_features"]), gold["hps.out.score"])
    clip = cosines(gold["clipscore.in.image_embeds"], gold["clipscore.in.text_embed"].expand(3, -1))
    assert torch.allclose(clip.double(), gold["clipscore.out.score"], atol=1e-6)
    assert (clip.argsort(descending=True).argsort() + 1).tolist() == gold["clipscore.out.rank"].tolist()


def test_pixel_gradient_equals_finite_differences(tmp_path):
    reward = reward_of(saved(tmp_path, tiny_open_clip(), "open_clip"), "HPSv2")
    image = picture(60, 44) * 0.6 + 0.2
    x = image.clone().requires_grad_()
    reward(x, [Prompt("a cat")]).sum().backward()
    direction = x.grad / x.grad.norm()
    numeric = (reward(image + 0.05 * direction, [Prompt("a cat")])
               - reward(image - 0.05 * direction, [Prompt("a cat")])) / 0.1
    assert torch.allclose(x.grad.norm(), numeric[0], rtol=0.02)


@pytest.mark.parametrize("precision, tolerance", [("fp16", 2e-3), ("bf16", 2e-2)])
def test_half_precision_stays_near_and_the_answer_is_float32(tmp_path, precision, tolerance):
    path = saved(tmp_path, tiny_open_clip(), "open_clip")
    images, prompts = torch.cat([picture(60, 60, i) for i in range(3)]), [Prompt(t) for t in TEXTS]
    half = reward_of(path, precision=precision)(images, prompts)
    assert half.dtype == torch.float32
    assert torch.allclose(half, reward_of(path)(images, prompts), atol=tolerance)
    x = images.clone().requires_grad_()
    reward_of(path, precision=precision)(x, prompts).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


def test_logit_scale_stays_exact_in_half_precision(tmp_path):
    path = saved(tmp_path, tiny_open_clip(), "open_clip")
    image, prompts = picture(60, 60), [Prompt("a cat")]
    for precision in ("fp16", "bf16"):
        cosine, pick = (reward_of(path, kind, precision=precision)(image, prompts) for kind in ("CLIPScore", "PickScore"))
        assert torch.allclose(pick, 100 * cosine, rtol=1e-5)


def test_works_in_inference_mode_and_the_same_network_gives_gradients_after(tmp_path):
    """As in ComfyUI: nodes run in inference mode, a trainer leaves it."""
    reward = reward_of(saved(tmp_path, tiny_open_clip(), "open_clip"))
    image = picture(60, 60)
    with torch.inference_mode():
        first = reward(image, [Prompt("a cat")])
        import comfy.model_management as management
        management.unload_all_models()  # moves the weights in inference mode
        again = reward(image, [Prompt("a cat")])
    x = image.clone().requires_grad_()
    last = reward(x, [Prompt("a cat")])
    last.sum().backward()
    assert torch.equal(first, again) and torch.equal(first, last.detach()) and x.grad.abs().sum() > 0
    assert not reward(image, [Prompt("a cat")]).requires_grad


def test_scoring_does_not_switch_gradients_on(tmp_path):
    reward = reward_of(saved(tmp_path, tiny_open_clip(), "open_clip"))
    x = picture(60, 60).requires_grad_()
    with torch.no_grad():
        assert not reward(x, [Prompt("a cat")]).requires_grad


def test_unload_and_sharing(tmp_path):
    import comfy.model_management as management

    path = saved(tmp_path, tiny_open_clip(), "open_clip")
    built = []

    def build():
        built.append(1)
        return build_clip(path, "gelu")

    one, two = holders.shared(path, "clip", build, "fp32"), holders.shared(path, "clip", build, "fp32")
    assert one is two and not built  # nothing is read before the first use
    reward = ClipReward("CLIPScore", one, holders.clip_tokenizer_folder())
    value = reward(picture(60, 60), [Prompt("a cat")])
    assert any(m.model is one._patcher for m in management.current_loaded_models)
    one.unload()
    assert not any(m.model is one._patcher for m in management.current_loaded_models)
    assert torch.equal(reward(picture(60, 60), [Prompt("a cat")]), value) and built == [1]
    assert holders.shared(path, "clip", build, "fp16") is not one
    one = two = reward = None
    assert holders.shared(path, "clip", build, "fp32")._patcher is None  # forgotten with its last reward


def test_long_prompt_is_cut_warned_once_and_counted(tmp_path, caplog):
    reward = reward_of(saved(tmp_path, tiny_open_clip(), "open_clip"))
    long = "a very detailed picture of a cat " * 20
    prompts = [Prompt(long), Prompt(long + "x"), Prompt(long)]
    with caplog.at_level(logging.WARNING):
        scores = score(reward, picture(60, 60).expand(3, -1, -1, -1), prompts, [0, 1, 0])
        score(reward, picture(60, 60).expand(3, -1, -1, -1), prompts, [0, 1, 0])
    assert sum("77 tokens" in r.message for r in caplog.records) == 1
    assert scores.stats["prompts_cut"] == scores.counts["prompts_cut"] == 2
    assert headline(scores).endswith("prompts too long for a reward, cut: 2")
    ids, _ = tokenize(load_tokenizer(holders.clip_tokenizer_folder()), [long], 77)
    assert ids.shape == (1, 77) and ids[0, -1] == 49407
    short = score(reward_of(saved(tmp_path, tiny_open_clip(), "open_clip")), picture(60, 60), [Prompt("cat")], [0])
    assert "prompts_cut" not in short.stats


def test_wrong_tokenizer_is_refused(tmp_path):
    source = holders.clip_tokenizer_folder()
    vocabulary = json.loads((source / "vocab.json").read_text("utf-8"))
    words = list(vocabulary)
    for file in ("merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps({w: (i + 7) % len(words) for i, w in enumerate(words)}), "utf-8")
    with pytest.raises(ValueError, match="tokenizer in .* is not CLIP's"):
        load_tokenizer(tmp_path)


def test_vision_only_file_is_explained(tmp_path):
    weights = transformers_names(tiny_open_clip().state_dict())
    save_file({k: v.contiguous() for k, v in weights.items() if k.startswith("vis")}, tmp_path / "vision.safetensors")
    with pytest.raises(ValueError, match="image and a text tower"):
        build_clip(tmp_path / "vision.safetensors")


def test_checkpoint_with_a_missing_layer_is_explained(tmp_path):
    weights = {k: v.contiguous() for k, v in tiny_open_clip().state_dict().items() if "resblocks.0.ln_2" not in k}
    save_file(weights, tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match="weights missing"):
        build_clip(tmp_path / "clip.safetensors")


def test_activation_is_read_beside_the_file(tmp_path):
    theirs = tiny_open_clip(quick_gelu=False)
    path = saved(tmp_path, theirs, "transformers")
    assert build_clip(path).config.vision_config.hidden_act == "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"hidden_act": "gelu"}}))
    assert build_clip(path).config.vision_config.hidden_act == "gelu"


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (2160, 64)])
def test_odd_sizes_give_a_number(tmp_path, shape):
    reward = reward_of(saved(tmp_path, tiny_open_clip(), "open_clip"), "HPSv2")
    assert torch.isfinite(reward(torch.rand(1, *shape, 3), [Prompt("a")])).all()


def test_features_helper_is_differentiable(tmp_path):
    network = build_clip(saved(tmp_path, tiny_open_clip(), "open_clip"), "gelu")
    x = picture(60, 60).requires_grad_()
    image_features(network, x, "crop", torch.float32).square().sum().backward()
    assert x.grad.abs().sum() > 0
