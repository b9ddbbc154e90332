"""A small instance of every reward that asks a network: random weights of the real classes, in the layout as published."""
from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from posttrain.rewards.learned import aesthetic, clip, embedding, hpsv3, imagereward, likeness, tower
from posttrain.rewards.learned.classifier import ClassReward, build_classifier
from posttrain.rewards.learned.clip_rewards import ClipReward
from posttrain.rewards.learned.holder import Holder, clip_tokenizer_folder
from posttrain.rewards.learned.preprocess import HALF, Geometry
from posttrain.rewards.rules import detectors, objects
from posttrain.rewards.vlm import judge, local
from posttrain.tests.unit.rewards.blip_reference import reference
from posttrain.tests.unit.rewards.learned.test_hpsv3 import INSTRUCTION
from posttrain.tests.unit.rewards.learned.test_imagereward import WORDS
from posttrain.tests.unit.rewards.networks import randomised, tiny_open_clip
from posttrain.tests.unit.rewards.qwen import qwen_folder
from safetensors.torch import save_file
from torch import nn


def clip_file(folder: Path) -> Path:
    save_file({k: v.contiguous() for k, v in tiny_open_clip().state_dict().items()}, folder / "clip.safetensors")
    return folder / "clip.safetensors"


def clip_reward(folder: Path):
    file = clip_file(folder)
    return ClipReward("HPSv2", Holder(lambda: clip.build_clip(file, "gelu"), "fp32"), clip_tokenizer_folder())


def likeness_to_pictures(folder: Path):
    file, picture = clip_file(folder), folder / "picture.png"
    Image.new("RGB", (40, 48), (200, 90, 30)).save(picture)
    return likeness.LikePictures(Holder(lambda: clip.build_clip(file, "gelu"), "fp32"), [picture])


def aesthetic_score(folder: Path):
    file = clip_file(folder)
    head = nn.Sequential(nn.Linear(48, 32), nn.Dropout(0.2), nn.Linear(32, 16), nn.Dropout(0.2), nn.Linear(16, 8),
                         nn.Dropout(0.1), nn.Linear(8, 4), nn.Linear(4, 1))
    torch.save({f"layers.{k}": v for k, v in randomised(head).state_dict().items()}, folder / "head.pth")
    return aesthetic.AestheticReward("LAION v2", Holder(lambda: tower.build_clip_tower(file), "fp32"), folder / "head.pth")


def image_reward(folder: Path):
    torch.save(randomised(reference(128, 64, 64)).state_dict(), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS.get(i, f"[unused{i}]") for i in range(30522)), "utf-8")
    return imagereward.ImageReward(Holder(lambda: imagereward.build_blip(folder / "ImageReward.pt"), "fp32"), folder)


def image_classifier(folder: Path):
    from transformers import ViTConfig, ViTForImageClassification
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32,
                       patch_size=8, id2label={0: "dog", 1: "cat"}, label2id={"dog": 0, "cat": 1})
    randomised(ViTForImageClassification(config)).save_pretrained(folder)
    holder = Holder(lambda: build_classifier(folder), "fp32")
    return ClassReward("class", holder, ["dog", "cat"], Geometry(32, "squash", HALF, HALF), "cat")


def hps_v3(folder: Path):
    network = qwen_folder(folder / "HPSv3")
    network.resize_token_embeddings(network.config.get_text_config().vocab_size + 1)  # the reward token
    head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.05), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
    names = {k.replace("model.language_model.", "model.").replace("model.visual.", "visual."): v.contiguous().clone()
             for k, v in network.state_dict().items()}
    (folder / "HPSv3" / "model.safetensors").unlink()
    save_file(names | {f"rm_head.{k}": v for k, v in head.state_dict().items()}, folder / "HPSv3" / "HPSv3.safetensors")
    (folder / "HPSv3" / "instruction.txt").write_text(INSTRUCTION)
    return hpsv3.HPSv3Reward(Holder(lambda: hpsv3.build_hpsv3(folder / "HPSv3"), "fp32"), folder / "HPSv3")


def vision_language(folder: Path):
    qwen_folder(folder / "judge", "qwen2_5_vl")
    holder = Holder(lambda: local.build_judge(folder / "judge"), "fp32")
    return judge.JudgeReward(local.LocalModel(holder, folder / "judge", 112 * 112))


def detr(folder: Path):
    from posttrain.tests.unit.rewards.rules.test_detectors import yolos
    place, _ = yolos(folder)
    return detectors.DetrDetector(Holder(lambda: detectors.build_detr(place), "fp32"), place)


def owl(folder: Path):
    from posttrain.tests.unit.rewards.rules.test_detectors import owl as published
    place, _ = published(folder)
    return detectors.OwlDetector(Holder(lambda: detectors.build_owl(place), "fp32"), place, clip_tokenizer_folder())


def colours(folder: Path):
    file = clip_file(folder)
    return objects.ClipColours(Holder(lambda: clip.build_clip(file, "gelu"), "fp32"))


def of_pictures(folder: Path):
    file = clip_file(folder)
    return embedding.clip_embedding(Holder(lambda: clip.build_clip(file, "gelu"), "fp32"))


# the module that asks the network -> how to make one that does
SCORING = {"learned/clip_rewards": clip_reward, "learned/aesthetic": aesthetic_score, "learned/imagereward": image_reward,
           "learned/likeness": likeness_to_pictures,
           "learned/classifier": image_classifier, "learned/hpsv3": hps_v3, "vlm/local": vision_language}
FINDING = {"rules/detectors, detr": detr, "rules/detectors, owl": owl, "rules/objects": colours}
MEASURING = {"learned/embedding": of_pictures}
