"""The probability of one class of an image classifier: NSFW, a watermark, or a class that the prompt names.

Any image classification folder in transformers' layout (config.json, preprocessor_config.json, weights). Value: the
probability in 0..1, or the log-odds (unbounded, keeps its gradient where the probability is nearly 0 or 1).
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..base.half import through_half
from ..base.reward import Prompt, RewardInfo
from .files import Published, read_json
from .holder import Holder, in_batches
from .hub import load_folder
from .preprocess import Geometry, preprocess

FROM_PROMPT = "named in the prompt"
OUTPUTS = ("probability", "log-odds")
ANY = Published("Image classifier", ("*classif*",), "my_classifier",
                "config.json, preprocessor_config.json and model.safetensors of an image classification model",
                "343 MB for a ViT-B", "see the model", folder=True)


class ClassReward:
    """holder: of a network pixels [B,3,S,S] -> logits [B,C] (a tensor or an output with .logits).

    labels: the C class names; several names of one class are separated by commas. target: one of them, or FROM_PROMPT:
    the class with the longest name that the prompt contains; NaN where it names none. wanted=False rewards absence.
    """

    def __init__(self, name: str, holder: Holder, labels: Sequence[str], geometry: Geometry, target: str,
                 wanted: bool = True, output: str = "probability", batch_size: int = 16):
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {OUTPUTS}, got '{output}'.")
        self._holder, self._labels, self._geometry, self._batch_size = holder, tuple(labels), geometry, batch_size
        self._target = None if target == FROM_PROMPT else label_index(labels, target)
        self._wanted, self._output = wanted, output
        low, high = (0.0, 1.0) if output == "probability" else (None, None)
        self.info = RewardInfo(name, low, high, target == FROM_PROMPT, True,
                               f"{output.capitalize()} of {'' if wanted else 'not '}'{target}'.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return in_batches(images, prompts, self._batch_size, self._score)

    def networks(self) -> list[Holder]:
        return [self._holder]

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        found = [self._target if self._target is not None else named_class(p.text, self._labels) for p in prompts]
        with self._holder.use() as (network, device, dtype):
            pixels = preprocess(images.to(device), self._geometry)
            logits = through_half(lambda p: logits_of(network(p)), pixels, dtype)
        index = torch.tensor([0 if i is None else i for i in found], device=logits.device)
        values = class_value(logits, index, self._wanted, self._output)
        return values.masked_fill(torch.tensor([i is None for i in found], device=values.device), torch.nan)


def class_value(logits: Tensor, index: Tensor, wanted: bool, output: str) -> Tensor:
    """logits [B,C], index [B] -> probability or log-odds [B] of that class (of all others if not wanted)."""
    chosen = logits.gather(1, index[:, None])[:, 0]
    others = logits.scatter(1, index[:, None], -torch.inf).logsumexp(1)
    odds = chosen - others if wanted else others - chosen
    return odds.sigmoid() if output == "probability" else odds


def logits_of(output) -> Tensor:
    return getattr(output, "logits", output)


def label_index(labels: Sequence[str], target: str) -> int:
    """Where a label is; capitals do not matter. Raises ValueError that lists some labels."""
    names = [label.lower() for label in labels]
    if target.lower() in names:
        return names.index(target.lower())
    if target.isdigit() and int(target) < len(labels):
        return int(target)
    some = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    raise ValueError(f"label '{target}' is not a class of this model. It knows: {some}")


def named_class(prompt: str, labels: Sequence[str]) -> int | None:
    """The class whose name is in the prompt as whole words; the longest name wins; None if there is none."""
    text, best, length = prompt.lower(), None, 0
    for i, label in enumerate(labels):
        for name in (part.strip().lower() for part in label.split(",")):
            if len(name) > length and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
                best, length = i, len(name)
    return best


def build_classifier(folder: Path) -> nn.Module:
    """The frozen network of a folder."""
    return load_folder("AutoModelForImageClassification", folder, "an image classifier")


def read_labels(folder: Path) -> list[str]:
    """Class names from config.json, in the order of the logits."""
    table: Mapping[str, str] = read_json(folder / "config.json").get("id2label") or {}
    if not table:
        raise ValueError(f"{folder.name}/config.json names no classes (id2label): it is not an image classifier.")
    return [table[str(i)] for i in range(len(table))]


def read_geometry(folder: Path) -> Geometry:
    """How the folder's preprocessor_config.json wants its images; ViT's usual 224 pixels where it is missing."""
    found = read_json(folder / "preprocessor_config.json")
    size = found.get("crop_size") if found.get("do_center_crop") else found.get("size", 224)
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge") or 224
    mode = "crop" if found.get("do_center_crop") or "shortest_edge" in str(found.get("size")) else "squash"
    return Geometry(int(size), mode, tuple(found.get("image_mean", (0.5,) * 3)), tuple(found.get("image_std", (0.5,) * 3)),
                    "bicubic" if found.get("resample", 2) == 3 else "bilinear")
