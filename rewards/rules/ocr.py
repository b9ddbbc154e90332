"""Does the image show the text that the prompt puts in quotes? Read by OCR, scored by edit distance, 0..1.

Source: the OCR reward of Flow-GRPO, arXiv:2505.05470: spaces removed, lower case, distance 0 if the wanted text occurs
anywhere in what was read. That exemption can be gamed with long text; "exact" compares both whole texts. Any OCR reward
alone teaches "nothing but text": add a reward that looks at the picture. Reader: RapidOCR (optional package, Apache-2.0,
models inside). Not differentiable. An image whose reading failed is NaN, not 0.
"""
from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..base.pixels import to_uint8
from ..base.reward import Prompt, RewardInfo
from ..base.words import from_group
from ..learned.holder import in_batches

Lines = Sequence[tuple[str, float]]  # (text, confidence), top to bottom
Reader = Callable[[Tensor], Lines]  # [H,W,3] uint8 -> lines
RULES = ("contains", "exact")
_QUOTED = re.compile(r'"([^"]*)"|\u201c([^\u201d]*)\u201d')
logger = logging.getLogger(__name__)


class OCRReward:
    """rule: "contains" (Flow-GRPO) or "exact". reader: RapidOCR if None, made at the first use."""

    def __init__(self, rule: str = "contains", reader: Reader | None = None):
        if rule not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got '{rule}'.")
        self._rule, self._reader, self._failures = rule, reader, 0
        self.info = RewardInfo("text in the image (OCR)", 0.0, 1.0, True, False,
                               'Share of the quoted text of the prompt that can be read: a sign that says "Open".')

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        if not any(quoted(p.text) for p in prompts):
            raise ValueError('No prompt has a text in double quotes, such as: a sign that says "Open". The OCR reward '
                             "does not know what to look for.")
        return in_batches(images, prompts, 1, self._score)

    def counts(self) -> dict[str, float]:
        return {"ocr_failures": float(self._failures)} if self._failures else {}

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        if self._reader is None:
            self._reader = rapidocr_reader()
        target = quoted(prompts[0].text)
        if not target:
            return torch.tensor([torch.nan])
        try:
            lines = self._reader(to_uint8(images)[0])
        except Exception as error:  # whatever an OCR engine raises concerns this one image
            self._failures += 1
            logger.warning("OCR failed on an image, its score is left out: %s", error)
            return torch.tensor([torch.nan])
        return torch.tensor([text_score(lines, target, self._rule)], dtype=torch.float64)


def text_score(lines: Lines, target: str, rule: str = "contains") -> float:
    """1 = the target was read, 0 = nothing of it. Lines without confidence are ignored."""
    seen = plain("".join(text for text, confidence in lines if confidence > 0))
    wanted = plain(target)
    if rule == "contains":
        distance = 0 if wanted in seen else min(edit_distance(seen, wanted), len(wanted))
        return 1 - distance / len(wanted)
    return 1 - edit_distance(seen, wanted) / max(len(seen), len(wanted))


def quoted(prompt: str) -> str:
    """The text in the first pair of double quotes, "" if there is none."""
    found = _QUOTED.search(prompt)
    text = (found[1] or found[2] or "") if found else ""
    return text if plain(text) else ""


def plain(text: str) -> str:
    return text.replace(" ", "").lower()


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions cost 1."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above_left, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above_left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above_left + (x != y))
    return row[-1]


def rapidocr_reader() -> Reader:
    """RapidOCR with the models that its wheel contains. Raises RuntimeError with the remedy if it is not installed."""
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise RuntimeError("The OCR reward needs the Python packages rapidocr and onnxruntime: install them into "
                           f"ComfyUI's Python {from_group('ocr')}.") from error
    engine = RapidOCR(params={"Global.log_level": "critical"})

    def read(image: Tensor) -> Lines:
        found = engine(image.numpy())
        return list(zip(found.txts or (), found.scores or ()))

    return read
