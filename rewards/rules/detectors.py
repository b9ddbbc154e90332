"""Object detectors behind the rule rewards: the DETR family (DETR, YOLOS, RT-DETR; fixed classes) and OWL-ViT / OWLv2
(any word). Folders in transformers' layout. DETR, RT-DETR, YOLOS and OWL models are Apache-2.0.

Images are prepared here with torch, on the device; transformers' own processors need further packages. A detector is a
function of images and, for each image, the classes to look for; boxes come back in the image's pixels.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.words import shown
from ..learned.clip import load_tokenizer
from ..learned.files import Published, read_json
from ..learned.holder import Holder
from ..learned.hub import load_folder
from ..learned.preprocess import CLIP_MEAN, CLIP_STD, resized
from .geneval import Detection

RT_DETR = Published("Object detector", ("*rtdetr*", "*detr-resnet*", "*yolos*"), "rtdetr_r50vd_coco_o365",
                    "config.json, preprocessor_config.json and model.safetensors of PekingU/rtdetr_r50vd_coco_o365",
                    "172 MB", "Apache-2.0", ("reward_models", "detection"), folder=True)
OWLV2 = Published("Object detector (any word)", ("*owlv2*", "*owlvit*"), "owlv2-base-patch16-ensemble",
                  "config.json, preprocessor_config.json and model.safetensors of google/owlv2-base-patch16-ensemble",
                  "620 MB", "Apache-2.0", ("reward_models", "detection"), folder=True)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGMOID_TYPES = ("rt_detr", "rt_detr_v2", "deformable_detr", "d_fine", "grounding-dino")
OWL_TOKENS = 16
# names of one and the same class: GenEval's, COCO's, and those of models that keep the older ones of Pascal VOC
SYNONYMS = (
    ("computer mouse", "mouse"), ("tv remote", "remote", "remote control"), ("computer keyboard", "keyboard"), ("couch", "sofa"),
    ("tv", "tvmonitor", "television"), ("airplane", "aeroplane"), ("motorcycle", "motorbike"), ("bicycle", "bike"),
    ("dining table", "table"), ("cell phone", "mobile phone"), ("hair drier", "hair dryer"), ("donut", "doughnut"))
LEAST = 0.05  # weaker detections are never looked at


class Detector(Protocol):
    def __call__(self, images: Tensor, classes: Sequence[Sequence[str]]) -> list[dict[str, list[Detection]]]: ...


class DetrDetector:
    """holder: of the network that build_detr makes; folder: where its class names and image settings are."""

    def __init__(self, holder: Holder, folder: Path):
        self._holder, self._settings = holder, image_settings(folder)
        config = read_json(folder / "config.json")
        self._labels = [str(v).lower() for _, v in sorted(config.get("id2label", {}).items(), key=lambda e: int(e[0]))]
        self._sigmoid = config.get("model_type") in SIGMOID_TYPES
        self._names: dict[str, frozenset[str]] = {}

    def check(self, classes: Iterable[str]) -> None:
        """ValueError names every class that this detector does not know, by no name."""
        known = {plain(label) for label in self._labels}
        self._names |= {name: spellings(name) for name in classes if name not in self._names}
        if unknown := sorted(name for name in classes if not self._names[name] & known):
            raise ValueError(f"the detector does not know {shown(', '.join(repr(name) for name in unknown), 300)}. It knows: "
                             f"{', '.join(self._labels[:12])}, ... Use an OWL detector, which looks for any word.")

    def __call__(self, images: Tensor, classes: Sequence[Sequence[str]]) -> list[dict[str, list[Detection]]]:
        self.check({c for wanted in classes for c in wanted})
        with torch.no_grad(), self._holder.use() as (network, device, dtype):
            pixels = detr_pixels(images.to(device), self._settings)
            found = network(pixel_values=pixels.to(dtype))
            scores, labels = best_class(found.logits.float(), self._sigmoid)
            boxes = corners(found.pred_boxes.float(), images.shape[2], images.shape[1])
        return [{name: [d for i, d in one if plain(self._labels[i]) in self._names[name]] for name in wanted}
                for one, wanted in zip(listed(scores, labels, boxes), classes)]


class OwlDetector:
    """holder: of the network that build_owl makes. tokenizer: folder with CLIP's vocabulary. size: the network's side
    in pixels. square: OWLv2 pads the image to a square first, OWL-ViT squashes it."""

    def __init__(self, holder: Holder, folder: Path, tokenizer: Path):
        self._holder, self._tokenizer = holder, tokenizer
        config = read_json(folder / "config.json")
        self._size = config.get("vision_config", {}).get("image_size", 768)
        self._square = config.get("model_type") == "owlv2"

    def __call__(self, images: Tensor, classes: Sequence[Sequence[str]]) -> list[dict[str, list[Detection]]]:
        width, height = images.shape[2], images.shape[1]
        if self._square:
            width = height = max(width, height)
        result = []
        for image, wanted in zip(images, classes):
            ids = owl_tokens(load_tokenizer(self._tokenizer), wanted)
            with torch.no_grad(), self._holder.use() as (network, device, dtype):
                pixels = owl_pixels(image[None].to(device), self._size, self._square).to(dtype)
                ids = ids.to(device)
                found = network(pixel_values=pixels, input_ids=ids, attention_mask=(ids != 0).long())
                scores, labels = best_class(found.logits.float(), True)
                boxes = corners(found.pred_boxes.float(), width, height)
            one, = listed(scores, labels, boxes)
            result.append({name: [d for i, d in one if i == index] for index, name in enumerate(wanted)})
        return result


def plain(name: str) -> str:
    """A class's name without what differs from one list to another: capitals, spaces, underscores, hyphens."""
    return "".join(character for character in name.lower() if character.isalnum())


def spellings(name: str) -> frozenset[str]:
    """The plain names by which a detector may know a class."""
    own = plain(name)
    same = next((group for group in SYNONYMS if own in map(plain, group)), (name,))
    return frozenset({own, *map(plain, same)})


def build_detr(folder: Path) -> Any:
    return load_folder("AutoModelForObjectDetection", folder, "an object detector")


def build_owl(folder: Path) -> Any:
    return load_folder("AutoModelForZeroShotObjectDetection", folder, "an OWL detector")


def image_settings(folder: Path) -> dict[str, Any]:
    """preprocessor_config.json, or DETR's settings (short side 800, long at most 1333) where it is missing."""
    found = read_json(folder / "preprocessor_config.json")
    size = found.get("size", {"shortest_edge": 800, "longest_edge": 1333})
    if not isinstance(size, Mapping):
        size = {"shortest_edge": size, "longest_edge": found.get("max_size", 1333)}
    return {"size": dict(size), "normalise": found.get("do_normalize", True),
            "mean": found.get("image_mean", IMAGENET_MEAN), "std": found.get("image_std", IMAGENET_STD)}


def detr_pixels(images: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """[B,H,W,3] -> [B,3,h,w], resized and normalised as the settings say."""
    pixels, size = images.movedim(-1, 1).float(), settings["size"]
    height, width = pixels.shape[-2:]
    if "height" in size:
        target = (size["height"], size["width"])
    else:
        shape = max(height, width) / min(height, width)
        short = min(size["shortest_edge"], max(1, round(size.get("longest_edge", 1333) / shape)))
        target = (short, int(short * shape)) if height <= width else (int(short * shape), short)
    pixels = resized(pixels, target, "bilinear")
    return _normalised(pixels, settings["mean"], settings["std"]) if settings["normalise"] else pixels


def owl_pixels(images: Tensor, size: int, square: bool) -> Tensor:
    """[1,H,W,3] -> [1,3,size,size]; square: grey is added right or below first, which keeps the proportions."""
    pixels = images.movedim(-1, 1).float()
    if square:
        side = max(pixels.shape[-2:])
        pixels = F.pad(pixels, (0, side - pixels.shape[-1], 0, side - pixels.shape[-2]), value=0.5)
    return _normalised(resized(pixels, (size, size), "bilinear" if square else "bicubic"), CLIP_MEAN, CLIP_STD)


def owl_tokens(tokenizer: Any, classes: Sequence[str]) -> Tensor:
    """ids [N,16] of "a photo of a <class>", zeros after the end."""
    ids = torch.zeros(len(classes), OWL_TOKENS, dtype=torch.int64)
    for row, name, tokens in zip(ids, classes, tokenizer([f"a photo of a {c}" for c in classes])["input_ids"]):
        if len(tokens) > OWL_TOKENS:
            raise ValueError(f"'{name}' is too long for the detector: {OWL_TOKENS - 6} short words at most.")
        row[:len(tokens)] = torch.tensor(tokens)
    return ids


def best_class(logits: Tensor, sigmoid: bool) -> tuple[Tensor, Tensor]:
    """[B,Q,C] -> score and class [B,Q]. Softmax networks have a last class "no object", which is left out."""
    if not sigmoid:
        return logits.softmax(-1)[..., :-1].max(-1)
    best, label = logits.max(-1)  # before the sigmoid, which makes sure things equal
    return best.sigmoid(), label


def corners(boxes: Tensor, width: int, height: int) -> Tensor:
    """Centre and size in 0..1 -> x1, y1, x2, y2 in pixels."""
    x, y, w, h = boxes.unbind(-1)
    return torch.stack([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height], -1)


def listed(scores: Tensor, labels: Tensor, boxes: Tensor) -> list[list[tuple[int, Detection]]]:
    """Per image (class number, detection), without the hopeless ones."""
    return [[(i, Detection(tuple(b), s)) for s, i, b in zip(*(t.tolist() for t in one)) if s > LEAST]
            for one in zip(scores, labels, boxes)]


def _normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (mean, std))
    return (pixels - mean) / std
