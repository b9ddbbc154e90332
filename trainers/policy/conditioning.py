"""Turns ComfyUI CONDITIONING into the keyword arguments of one batched network call, whatever the architecture."""
from __future__ import annotations

import comfy.sampler_helpers
import comfy.samplers
import torch

from .weights import outside_inference

UNSUPPORTED = {
    "control": "a ControlNet", "gligen": "GLIGEN boxes", "area": "an area", "mask": "a mask", "hooks": "hooks",
    "start_percent": "a start percent", "end_percent": "an end percent", "clip_start_percent": "a schedule",
}


class Conditionings:
    """Network arguments of every prompt of a set, prepared once for one latent shape.

    positive: one CONDITIONING per prompt; negative: a CONDITIONING or None; latent_shape: [C, H, W] (or [C, T, H, W]).
    Raises ValueError where a CONDITIONING holds something that cannot be trained through, and names it.
    """

    def __init__(self, model, positive, negative, latent_shape, device):
        self._model, self._shape, self._device = model, tuple(latent_shape), device
        self._positive = positive
        self._prepared: dict[int, dict] = {}
        self._negative = None if negative is None else self._prepare(negative, "negative prompt")
        self._batches: dict[tuple, list] = {}

    def has_negative(self) -> bool:
        return self._negative is not None

    def batches(self, index: tuple[int, ...]) -> list[tuple[torch.Tensor | None, dict]]:
        """Groups of samples whose arguments stack: (places in the batch or None for all of it, arguments)."""
        if index not in self._batches:
            self._batches[index] = self._stack([self._of_prompt(i) for i in index])
        return self._batches[index]

    def negative_batch(self, count: int) -> dict:
        key = ("negative", count)
        if key not in self._batches:
            ((_, arguments),) = self._stack([self._negative] * count)
            self._batches[key] = arguments
        return self._batches[key]

    def _of_prompt(self, i: int) -> dict:
        if i not in self._prepared:
            self._prepared[i] = self._prepare(self._positive[i], f"prompt {i + 1}")
        return self._prepared[i]

    def _prepare(self, conditioning, where: str) -> dict:
        if len(conditioning) != 1:
            raise ValueError(f"prompts: {where} holds {len(conditioning)} conditionings combined; training needs "
                             "exactly one for each prompt (no Conditioning Combine, no regions)")
        found = [what for key, what in UNSUPPORTED.items() if conditioning[0][1].get(key) is not None]
        if found:
            raise ValueError(f"prompts: {where} carries {' and '.join(found)}, which cannot be trained through yet; "
                             "remove it from the conditioning")
        noise = torch.zeros((1, *self._shape), device=self._device)
        plain = comfy.sampler_helpers.convert_cond(outside_inference(conditioning))
        processed = comfy.samplers.process_conds(self._model, noise, {"positive": plain}, self._device,
                                                 latent_image=torch.zeros_like(noise))
        arguments = processed["positive"][0]["model_conds"]
        # a copy made here: what the host's encoder left behind may be an inference tensor
        return {name: value.process_cond(batch_size=1, area=None) for name, value in arguments.items()}

    @staticmethod
    def _stack(conds: list[dict]) -> list[tuple[torch.Tensor | None, dict]]:
        groups: list[list[int]] = []
        for place, cond in enumerate(conds):
            for group in groups:
                if _stacks(conds[group[0]], cond):
                    group.append(place)
                    break
            else:
                groups.append([place])
        return [(None if len(groups) == 1 else torch.tensor(group),
                 outside_inference(comfy.samplers.cond_cat([conds[place] for place in group])))
                for group in groups]


def _stacks(first: dict, second: dict) -> bool:
    """Equal sizes only: the host would repeat a shorter text, which changes joint-attention networks."""
    return first is second or (comfy.samplers.cond_equal_size(first, second)
                               and all(first[k].size() == second[k].size() for k in first))
