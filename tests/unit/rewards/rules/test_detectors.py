"""Detectors on small random networks against the same steps written again; the rule rewards on them."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned.clip import build_clip
from posttrain.rewards.rules import detectors, objects
from posttrain.rewards.rules.geneval import COLOURS, Detection
from safetensors.torch import save_file

from ..networks import picture, randomised, tiny_open_clip

LABELS = ["cat", "dog", "mouse"]


def yolos(tmp_path):
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                         image_size=[64, 96], patch_size=16, num_detection_tokens=10,
                         id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)})
    network = randomised(YolosForObjectDetection(config), scale=0.4)
    network.save_pretrained(tmp_path / "yolos")
    (tmp_path / "yolos" / "preprocessor_config.json").write_text(json.dumps(
        {"size": {"shortest_edge": 64, "longest_edge": 96}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return tmp_path / "yolos", network


def test_detr_family_equals_the_steps_by_hand(tmp_path):
    folder, network = yolos(tmp_path)
    image = (picture(128, 192) * 255).round() / 255
    detector = detectors.DetrDetector(holders.Holder(lambda: detectors.build_detr(folder), "fp32"), folder)
    found, = detector(image, [["cat", "dog", "computer mouse"]])
    small = Image.fromarray((image[0] * 255).byte().numpy()).resize((96, 64), Image.Resampling.BILINEAR)
    pixels = (torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    with torch.no_grad():
        out = network(pixel_values=pixels)
    seen = 0
    for logits, (x, y, w, h) in zip(out.logits[0], out.pred_boxes[0].tolist()):
        p = logits.softmax(-1)[:-1]
        if p.max() <= 0.06:
            continue
        name = ["cat", "dog", "computer mouse"][p.argmax()]
        near = [d for d in found[name] if abs(d.score - p.max().item()) < 0.02 and torch.allclose(
            torch.tensor(d.box), torch.tensor([(x - w / 2) * 192, (y - h / 2) * 128, (x + w / 2) * 192,
                                               (y + h / 2) * 128]), atol=2)]
        assert len(near) >= 1
        seen += 1
    assert seen >= 5


def test_unknown_class_is_named(tmp_path):
    folder, _ = yolos(tmp_path)
    detector = detectors.DetrDetector(holders.Holder(lambda: detectors.build_detr(folder), "fp32"), folder)
    with pytest.raises(ValueError, match="does not know 'unicorn'. It knows: cat, dog, mouse"):
        detector(picture(64, 96), [["unicorn"]])


def test_sizes_follow_the_published_rule():
    settings = {"size": {"shortest_edge": 800, "longest_edge": 1333}, "normalise": False}
    for (h, w), expected in {(480, 640): (800, 1066), (100, 1000): (133, 1330), (1000, 400): (1332, 533), (1, 1): (800, 800),
                             }.items():
        assert tuple(detectors.detr_pixels(torch.rand(1, h, w, 3), settings).shape[-2:]) == expected
    square = {"size": {"height": 64, "width": 48}, "normalise": False}
    assert detectors.detr_pixels(torch.rand(2, 30, 90, 3), square).shape == (2, 3, 64, 48)


def owl(tmp_path, kind="owlv2"):
    import transformers as t

    prefix = "Owlv2" if kind == "owlv2" else "OwlViT"
    config = getattr(t, f"{prefix}Config")(
        text_config=dict(vocab_size=49408, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                         max_position_embeddings=16),
        vision_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=64,
                           patch_size=16), projection_dim=32)
    network = randomised(getattr(t, f"{prefix}ForObjectDetection")(config), scale=0.4)
    network.save_pretrained(tmp_path / kind)
    return tmp_path / kind, network


def test_owl_boxes_are_in_the_pixels_of_the_unpadded_image(tmp_path):
    folder, network = owl(tmp_path)
    detector = detectors.OwlDetector(holders.Holder(lambda: detectors.build_owl(folder), "fp32"), folder,
                                     holders.clip_tokenizer_folder())
    image, words = picture(60, 120), ["cat", "red balloon"]
    found, = detector(image, [words])
    padded = torch.full((1, 3, 120, 120), 0.5)
    padded[:, :, :60] = image.movedim(-1, 1)
    small = torch.nn.functional.interpolate(padded, (64, 64), mode="bilinear", antialias=True)
    mean, std = torch.tensor(detectors.CLIP_MEAN), torch.tensor(detectors.CLIP_STD)
    import open_clip

    ids = open_clip.get_tokenizer("ViT-H-14")(["a photo of a cat", "a photo of a red balloon"], 16)
    with torch.no_grad():
        out = network(input_ids=ids, pixel_values=(small - mean.view(3, 1, 1)) / std.view(3, 1, 1),
                      attention_mask=(ids > 0).long())
    count = 0
    for logits, (x, y, w, h) in zip(out.logits[0], out.pred_boxes[0].tolist()):
        if logits.max().sigmoid() > 0.06:
            d = [d for d in found[words[logits.argmax()]] if abs(d.score - logits.max().sigmoid().item()) < 1e-4]
            assert any(torch.allclose(torch.tensor(e.box), 120 * torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2]),
                                      atol=0.05) for e in d)
            count += 1
    assert count >= 3


def test_owl_vit_loads_and_too_long_words_are_refused(tmp_path):
    folder, _ = owl(tmp_path, "owlvit")
    detector = detectors.OwlDetector(holders.Holder(lambda: detectors.build_owl(folder), "fp32"), folder,
                                     holders.clip_tokenizer_folder())
    assert set(detector(picture(40, 40), [["cat"]])[0]) == {"cat"}
    with pytest.raises(ValueError, match="too long for the detector"):
        detector(picture(40, 40), [["a very very long name of a thing that nobody would ever say aloud twice"]])


class Boxes:
    """A detector that finds coloured squares by their exact colour: real geometry without a network."""

    TABLE = {"cat": (1.0, 0.0, 0.0), "dog": (0.0, 0.0, 1.0)}

    def __call__(self, images, classes):
        found = []
        for image, wanted in zip(images, classes):
            found.append({name: self._find((image == torch.tensor(self.TABLE[name])).all(-1)) for name in wanted})
        return found

    def _find(self, mask):
        boxes = []
        for start in range(0, mask.shape[1], 10):
            rows, columns = torch.nonzero(mask[:, start:start + 10], as_tuple=True)
            if len(rows):
                boxes.append(Detection((start + columns.min().item(), rows.min().item(), start + columns.max().item() + 1,
                                        rows.max().item() + 1), 0.95))
        return boxes


def scene(*things) -> torch.Tensor:
    """things: (name, slot, top) drawn as 8x8 squares in slots of ten pixels."""
    image = torch.full((1, 40, 40, 3), 0.5)
    for name, slot, top in things:
        image[0, top:top + 8, slot * 10 + 1:slot * 10 + 9] = torch.tensor(Boxes.TABLE[name])
    return image


def test_rule_rewards_rank_scenes():
    spec = {"tag": "position", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 2, "position":
            ["left of", 0]}]}
    images = torch.cat([scene(("cat", 0, 5), ("cat", 1, 5), ("dog", 3, 5)), scene(("cat", 0, 5), ("dog", 3, 5)),
                        scene(("cat", 3, 5), ("cat", 2, 5), ("dog", 0, 5)), scene()])
    prompts = [Prompt("two cats left of a dog", spec)] * 4
    values = {rule: score(objects.RuleReward(Boxes(), rule), images, prompts, [0] * 4).values.tolist() for rule in objects.RULES}
    assert values[objects.RULES[0]] == pytest.approx([1, 0.5, 2 / 3, 0])
    assert values[objects.RULES[1]] == values[objects.RULES[2]] == [1, 0, 0, 0]


def test_images_without_a_rule_fail_alone_and_all_without_is_refused():
    reward = objects.RuleReward(Boxes())
    values = reward(torch.cat([scene(("cat", 0, 0))] * 2), [Prompt("x"), Prompt("cat", {"include": [{"class": "cat", "count": 1}]})])
    assert values[0].isnan() and values[1] == 1
    with pytest.raises(ValueError, match="No prompt has a rule"):
        reward(scene(), [Prompt("x")])
    with pytest.raises(ValueError, match="choose a CLIP model in the menu"):
        reward(scene(("cat", 0, 0)), [Prompt("x", {"include": [{"class": "cat", "count": 1, "color": "red"}]})])


def test_fixed_objects():
    reward = objects.RuleReward(Boxes(), objects.RULES[2], spec=objects.objects_spec("Cat: 2, dog"))
    images = torch.cat([scene(("cat", 0, 0), ("cat", 1, 0), ("dog", 2, 0)),
                        scene(("cat", 0, 0), ("cat", 1, 0), ("cat", 3, 0), ("dog", 2, 0))])
    assert reward(images, [Prompt("")] * 2).tolist() == [1, 0]
    for wrong in ("", "cat: many", ": 3", "cat: 0"):
        with pytest.raises(ValueError, match="objects"):
            objects.objects_spec(wrong)


def test_colour_names_come_from_the_box(tmp_path):
    """Random weights: the answer is compared with open_clip's, not with what a person sees."""
    import open_clip

    theirs = tiny_open_clip(seed=3)
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, tmp_path / "clip.safetensors")
    namer = objects.ClipColours(holders.Holder(lambda: build_clip(tmp_path / "clip.safetensors", "gelu"), "fp32"))
    image = picture(80, 120)[0]
    boxes = [Detection((5, 5, 61, 61), 0.9), Detection((60, 10, 118, 79), 0.8), Detection((-9, -9, 4, 300), 0.5)]
    crops = torch.cat([objects.crop(image, d, 56) for d in boxes]).movedim(-1, 1)
    assert torch.equal(crops[0], image[5:61, 5:61].movedim(-1, 0))
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    with torch.no_grad():
        seen = theirs.encode_image((crops - mean.view(3, 1, 1)) / std.view(3, 1, 1), normalize=True)
        words = []
        for c in COLOURS:
            texts = [f"a photo of a {c} mug", f"a photo of a {c}-colored mug", f"a photo of a {c} object"]
            words.append(theirs.encode_text(open_clip.get_tokenizer("ViT-H-14")(texts), normalize=True).mean(0))
        words = torch.nn.functional.normalize(torch.stack(words), dim=-1)
    assert namer(image, "mug", boxes) == [COLOURS[i] for i in (seen @ words.T).argmax(1)]
