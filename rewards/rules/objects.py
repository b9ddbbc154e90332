"""Rewards from detections: the GenEval verifier, and plain "these objects, so many of each". Range 0..1.

Scores of another detector than GenEval's own (Mask2Former) cannot be compared with published GenEval numbers: look at
the detections on the base model's images and set the confidence there.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.reward import Prompt, RewardInfo
from ..learned.clip_rewards import image_features
from ..learned.holder import Holder, clip_tokenizer_folder, in_batches
from ..learned.hub import pooled
from ..learned.preprocess import resized
from .detectors import Detector
from .geneval import COLOURS, Detection, Thresholds, dense, keep, official, strict, terms
from .records import checked_spec

RULES = ("dense (partial credit)", "strict (exact counts)", "official GenEval")
Colours = Callable[[Tensor, str, Sequence[Detection]], Sequence[str]]  # image [H,W,3], class, detections -> names
_TEMPLATES = ("a photo of a {c} {name}", "a photo of a {c}-colored {name}", "a photo of a {c} object")


class RuleReward:
    """Scores each image by the spec of its prompt, or by one fixed spec. Images without a spec are NaN.

    colours: names the colour of detections; may be None as long as no spec asks for a colour.
    """

    def __init__(self, detector: Detector, rule: str = RULES[0], limits: Thresholds = Thresholds(),
                 colours: Colours | None = None, spec: dict | None = None, batch_size: int = 4):
        if rule not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got '{rule}'.")
        self._detector, self._rule, self._limits, self._colours = detector, rule, limits, colours
        self._spec, self._batch_size = spec, batch_size
        self._checked: Sequence[Prompt] | None = None
        self.info = RewardInfo("objects" if spec else "GenEval rules", 0.0, 1.0, spec is None, False,
                               "Are the objects there, in the right number, colour and place?")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        specs = [self._spec or rule_of(p) for p in prompts]
        if not any(specs):
            raise ValueError("No prompt has a rule to check. Load the prompts from a GenEval file, or use the object "
                             "reward with a list of objects.")
        return in_batches(images, specs, self._batch_size, self._score)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """ValueError where a prompt's record cannot be read, or asks for what the detector does not know or for a colour that
        nobody names: before the run, for all prompts, and not when one of them comes."""
        if prompts is self._checked or self._spec is not None:
            return
        specs = [spec for spec in map(rule_of, prompts) if spec]
        if hasattr(self._detector, "check"):
            self._detector.check({name for spec in specs for name in classes_of(spec)})
        for spec in specs if self._colours is None else ():
            coloured = [part["class"] for kind in ("include", "exclude") for part in spec.get(kind, ()) if "color" in part]
            if coloured:
                raise _no_colours(coloured[0])
        self._checked = prompts

    def _score(self, images: Tensor, specs: Sequence[dict | None]) -> Tensor:
        found = self._detector(images, [classes_of(s) for s in specs])
        return torch.tensor([self._one(*item) for item in zip(images, specs, found)], dtype=torch.float64)

    def _one(self, image: Tensor, spec: dict | None, found: dict) -> float:
        if not classes_of(spec):
            return torch.nan
        kept = keep(found, spec.get("tag", ""), self._limits)

        def namer(name: str, detections: Sequence[Detection]) -> Sequence[str]:
            if self._colours is None:
                raise _no_colours(name)
            return self._colours(image, name, detections)

        if self._rule == RULES[2]:
            return float(official(spec, kept, namer, self._limits))
        parts = terms(spec, kept, namer, self._limits)
        return float(strict(parts)) if self._rule == RULES[1] else dense(parts)


def _no_colours(name: str) -> ValueError:
    return ValueError(f"A prompt asks for the colour of '{name}': choose a CLIP model in the menu 'model' of GenEval Reward.")


class ClipColours:
    """Names colours as GenEval does: zero-shot CLIP on the cut-out box, three sentences per colour."""

    def __init__(self, holder: Holder):
        self._holder = holder

    def __call__(self, image: Tensor, name: str, detections: Sequence[Detection]) -> list[str]:
        from ..learned.clip import load_tokenizer, tokenize

        with torch.no_grad(), self._holder.use() as (network, device, dtype):
            limit = network.config.text_config.max_position_embeddings
            texts = [t.format(c=c, name=name) for c in COLOURS for t in _TEMPLATES]
            ids, _ = tokenize(load_tokenizer(clip_tokenizer_folder()), texts, limit)
            words = F.normalize(pooled(network.get_text_features(input_ids=ids.to(device))).float(), dim=-1)
            words = F.normalize(words.unflatten(0, (len(COLOURS), len(_TEMPLATES))).mean(1), dim=-1)
            crops = torch.cat([crop(image, d, network.config.vision_config.image_size) for d in detections])
            seen = F.normalize(image_features(network, crops.to(device), "crop", dtype), dim=-1)
            return [COLOURS[i] for i in (seen @ words.T).argmax(-1).tolist()]


def crop(image: Tensor, detection: Detection, size: int) -> Tensor:
    """[H,W,3] -> the box as [1,size,size,3], short side filled and the middle kept, as CLIP sees images."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (round(v) for v in detection.box)
    x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    part = image[y1:max(min(y2, height), y1 + 1), x1:max(min(x2, width), x1 + 1)].movedim(-1, 0)[None]
    scale = size / min(part.shape[-2:])
    part = resized(part, tuple(max(size, int(n * scale)) for n in part.shape[-2:]))
    top, left = (part.shape[-2] - size) // 2, (part.shape[-1] - size) // 2
    return part[..., top:top + size, left:left + size].movedim(1, -1)


def rule_of(prompt: Prompt) -> dict | None:
    """The prompt's GenEval record, checked; None if it has none. Raises ValueError that names the prompt."""
    if not prompt.spec or not ("include" in prompt.spec or "exclude" in prompt.spec):
        return None
    return checked_spec(prompt.spec, f"the record of the prompt '{prompt.text[:60]}'")


def classes_of(spec: dict | None) -> list[str]:
    """Every class that a spec mentions, once."""
    parts = [*(spec or {}).get("include", ()), *(spec or {}).get("exclude", ())]
    return list(dict.fromkeys(p["class"] for p in parts))


def objects_spec(text: str) -> dict:
    """The text "cat: 2, dog" -> a spec with exactly two cats and one dog. Raises ValueError."""
    include = []
    for entry in (e.strip() for e in re.split(r"[,\n]", text) if e.strip()):
        name, _, number = (p.strip() for p in entry.partition(":"))
        if not name or (number and not (number.isdigit() and int(number) > 0)):
            raise ValueError(f"objects: '{entry}' must be a name, or a name and a number such as 'cat: 2'.")
        include.append({"class": name.lower(), "count": int(number or 1)})
    if not include:
        raise ValueError("objects: name at least one object, such as 'cat: 2, dog'.")
    return {"tag": "", "include": include, "exclude": [{"class": p["class"], "count": p["count"] + 1} for p in include]}
