"""Turns ComfyUI CONDITIONING into what the host's sampler holds for one batched call, whatever the architecture."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import comfy.sampler_helpers
import comfy.samplers
import torch

from ...rewards.base.words import brief
from ..prompts import PromptSet
from .weights import outside_inference

UNSUPPORTED = {"gligen": "GLIGEN boxes", "hooks": "hooks", "additional_models": "further models"}
# what makes the host treat a conditioning otherwise than another: such a prompt goes through the network by itself
PLACED = ("control", "area", "mask", "strength", "default", "start_percent", "end_percent", "clip_start_percent",
          "timestep_start", "timestep_end")

SEED = 0  # of the noise that a few models add to an image of their conditioning: the same in rollout and train step

Conds = dict[str, list[dict]]  # "positive" and, where there is one, "negative": as comfy.samplers.process_conds gives them


@dataclass(frozen=True)
class _Prompt:
    """conds: of one prompt; plain: whether they may share a network call with those of other prompts."""

    conds: Conds
    plain: bool
    __repr__ = brief


class Conditionings:
    """The host's conditionings of every prompt of a set, prepared once for one latent shape.

    prompts: encoded; latent_shape: [C, H, W] (or [C, T, H, W]).
    Raises ValueError where a CONDITIONING holds something that cannot be trained through, and names it.
    """

    def __init__(self, model, prompts: PromptSet, latent_shape, device):
        self._model, self._shape, self._device = model, tuple(latent_shape), device
        negative = prompts.negative
        self._positive: Sequence = prompts.positive or ()
        self._raw_negative, self._negatives = negative, prompts.negatives
        self._prompts: dict[int, _Prompt] = {}
        self._stacked: dict[tuple[int, ...], Conds] = {}
        self._negative: list[dict] | None = None
        self._controls: dict[int, tuple] = {}  # the user's ControlNets by id, each with the copy that stands for it
        if negative is not None:
            _check(negative, "negative prompt")
            self._negative = self._processed({"negative": negative})["negative"]

    def has_negative(self) -> bool:
        return self._negative is not None or self._negatives is not None

    def further_models(self) -> list:
        """ModelPatchers that the network's calls need beside it: those of ControlNets."""
        given = getattr(self._positive, "given", self._positive)  # encodings of texts have none, and are not all in RAM
        entries = [{"control": extra["control"]} for conditioning in (*given, self._raw_negative or [])
                   for _, extra in conditioning if extra.get("control") is not None]
        models, _ = comfy.sampler_helpers.get_additional_models({"all": entries}, self._model.get_dtype())
        return list({id(model): model for model in models}.values())

    def cleanup(self) -> None:
        """Lets ControlNets forget what they have kept for this sampling, as the host does after it."""
        comfy.sampler_helpers.cleanup_additional_models([copy for _, copy in self._controls.values()])

    def placed(self, index: tuple[int, ...]) -> bool:
        """Whether one of these prompts is bound to a place, a mask or a part of the sampling."""
        return any(not self._prompt(i).plain for i in index)

    def groups(self, index: tuple[int, ...], levels: tuple[float, ...] | None = None
               ) -> list[tuple[torch.Tensor | None, Conds]]:
        """Groups of samples that go through the network together: (places in the batch or None for all of it, conds).

        levels: the noise level of each sample, where only samples of the same one may be together.
        """
        found: list[list[int]] = []
        for place, i in enumerate(index):
            for group in found:
                same_level = levels is None or levels[place] == levels[group[0]]
                if same_level and self._together(index[group[0]], i):
                    group.append(place)
                    break
            else:
                found.append([place])
        return [(None if len(found) == 1 else torch.tensor(group), self._of(tuple(index[place] for place in group)))
                for group in found]

    def _together(self, first: int, second: int) -> bool:
        """Equal sizes only: the host would repeat a shorter text, which changes joint-attention networks."""
        if first == second:
            return True
        a, b = self._prompt(first), self._prompt(second)
        return a.plain and b.plain and all(_same_sizes(a.conds[name][0], b.conds[name][0]) for name in a.conds)

    def _of(self, prompts: tuple[int, ...]) -> Conds:
        first = self._prompt(prompts[0])
        if not first.plain:
            return first.conds
        if prompts not in self._stacked:
            own = ("positive",) if self._negatives is None else tuple(first.conds)
            self._stacked[prompts] = {**first.conds, **{name: [_stack([self._prompt(i).conds[name][0] for i in prompts])]
                                                        for name in own}}
        return self._stacked[prompts]

    def _prompt(self, i: int) -> _Prompt:
        if i not in self._prompts:
            positive, negative = self._positive[i], self._raw_negative if self._negatives is None else self._negatives[i]
            _check(positive, f"prompt {i + 1}")
            plain = _is_plain(positive) and (negative is None or _is_plain(negative))
            if plain and self._negatives is None:
                conds = self._processed({"positive": positive})
                conds |= {} if negative is None else {"negative": self._negative}
            else:  # each its own, or the host gives each an opposite one of the same area
                conds = self._processed({"positive": positive, **({} if negative is None else {"negative": negative})})
            self._prompts[i] = _Prompt(conds, plain)
        return self._prompts[i]

    def _own_control(self, control):
        """A copy, since a ControlNet keeps the hint of its last call; one for each, so that branches that share it still do."""
        if id(control) not in self._controls:
            copy = control.copy()
            copy.cond_hint_original = outside_inference(copy.cond_hint_original)
            if control.previous_controlnet is not None:
                copy.set_previous_controlnet(self._own_control(control.previous_controlnet))
            self._controls[id(control)] = (control, copy)
        return self._controls[id(control)][1]

    def _processed(self, conditionings: dict) -> Conds:
        noise = torch.zeros((1, *self._shape), device=self._device)
        conds = {name: comfy.sampler_helpers.convert_cond(outside_inference(conditioning))
                 for name, conditioning in conditionings.items()}
        for cond in (cond for entries in conds.values() for cond in entries):
            if cond.get("control") is not None:
                cond["control"] = self._own_control(cond["control"])
        conds = comfy.samplers.process_conds(self._model, noise, conds, self._device, latent_image=torch.zeros_like(noise),
                                            seed=SEED)
        return {name: [{**cond, "model_conds": {key: value._copy_with(outside_inference(value.cond))
                                                for key, value in cond["model_conds"].items()}} for cond in entries]
                for name, entries in conds.items()}


def _check(conditioning, where: str) -> None:
    for _, extra in conditioning:
        found = [what for key, what in UNSUPPORTED.items() if extra.get(key) is not None]
        if extra.get("control") is not None and extra["control"].get_extra_hooks():
            found.append("a ControlNet with hooks")
        if found:
            raise ValueError(f"prompts: {where} carries {' and '.join(found)}, which cannot be trained through yet; "
                             "remove it from the conditioning")


def _is_plain(conditioning) -> bool:
    return len(conditioning) == 1 and not any(conditioning[0][1].get(key) is not None for key in PLACED)


def _of_one(cond: dict) -> dict:
    return {name: value.process_cond(batch_size=1, area=None) for name, value in cond["model_conds"].items()}


def _same_sizes(first: dict, second: dict) -> bool:
    a, b = _of_one(first), _of_one(second)
    return comfy.samplers.cond_equal_size(a, b) and all(a[k].size() == b[k].size() for k in a)


def _stack(conds: list[dict]) -> dict:
    """One conditioning that holds, sample after sample, what each of these holds for one."""
    parts = [_of_one(cond) for cond in conds]
    joined = comfy.samplers.cond_cat(parts)
    model_conds = {name: parts[0][name]._copy_with(outside_inference(value)) for name, value in joined.items()}
    return {**{key: _side_by_side([cond.get(key) for cond in conds]) for key in conds[0]}, "model_conds": model_conds}


def _side_by_side(values: list):
    """What nodes on the model read from a conditioning beside the network's own arguments."""
    if all(isinstance(v, torch.Tensor) and v.shape == values[0].shape and v.ndim for v in values):
        return torch.cat(values)
    return values[0]
