"""The judge in process: a Qwen-VL folder in models/reward_models (or LLM), one forward pass per question, no sampling.

Differentiable: the image's patches are cut by torch, so a policy can be trained directly on the answer's probability.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..learned.files import Published
from ..learned.holder import Holder, cancel_point
from ..learned.hub import load_folder
from ..learned.qwen_vl import conversation, load_tokenizer, network_inputs, patches, read_vision
from .judge import Probabilities, Question

FOLDER = Published("VLM judge", ("*qwen*vl*",), "Qwen2.5-VL-3B-Instruct",
                   "all files of Qwen/Qwen2.5-VL-3B-Instruct (or another Qwen2-VL, Qwen2.5-VL or Qwen3-VL)", "7.5 GB",
                   "research only; that of the 7B is Apache-2.0", ("reward_models", "LLM"), folder=True)


class LocalModel:
    """holder: of the network that build_judge makes. pixels: area to which each image is resized."""

    differentiable = True

    def __init__(self, holder: Holder, folder: Path, pixels: int = 448 * 448):
        self._holder, self._folder, self._pixels, self._tokenizer = holder, folder, pixels, None

    def __call__(self, questions: Sequence[Question]) -> list[Probabilities]:
        if self._tokenizer is None:
            read_vision(self._folder)  # another family is named before its tokenizer is
            self._tokenizer = load_tokenizer(self._folder)
        found = []
        for question in questions:
            cancel_point()
            found.append(self._answer(question))
        return found

    def networks(self) -> list[Holder]:
        return [self._holder]

    def _answer(self, question: Question) -> dict[str, Tensor]:
        kind, vision = read_vision(self._folder)
        with self._holder.use() as (network, device, dtype):
            seen = [patches(image.to(device), vision, self._pixels) for image in question.images]
            counts = [int(grid.prod()) // vision.merge**2 for _, grid in seen]
            inputs = network_inputs(self._tokenizer, [conversation(kind, question.text, counts)], device)
            logits = network(**inputs, pixel_values=torch.cat([p for p, _ in seen]).to(dtype),
                             image_grid_thw=torch.cat([g for _, g in seen])).logits[0, -1]
            chances = logits.float().softmax(-1)
        return {a: chances[first_tokens(self._tokenizer, a, device)].sum() for a in question.answers}


def first_tokens(tokenizer, answer: str, device: torch.device) -> Tensor:
    """Ids with which the answer may begin: as written, capitalised, after a space."""
    ways = {form for word in (answer, answer.capitalize(), answer.upper()) for form in (word, f" {word}")}
    rows = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in ways]
    return torch.tensor(sorted({row[0] for row in rows if row} - {tokenizer.unk_token_id}), device=device)


def build_judge(folder: Path) -> nn.Module:
    return load_folder("AutoModelForImageTextToText", folder, "a vision-language model", dtype="auto")
