"""The policy as a value: a train step returns a new one, and whoever holds the old one still has it."""
from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...rewards.base.words import brief
from .bank import FROM_LORA, Recipe, largest_rank, members_of, new_bank, trainable_layers
from .kinds import Member
from .patches import check_model
from .recommended import recommended, recommended_lora

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .from_lora import ReadLora

Bank = dict[str, torch.Tensor]
REFERENCE = "reference"  # its place among the policy's anchors, where it is not the model alone
BEFORE = "before"  # there, too: the weights that sample while the policy is trained


class Guest(NamedTuple):
    """Weights beside a policy's, for the same model: members: how each layer is adapted; bank: float32 on the CPU."""

    members: dict[str, Member]
    bank: Bank


@dataclass(frozen=True)
class Policy:
    """The user's MODEL with a LoRA bank, and all that training needs to go on.

    model: the user's own MODEL; never modified. bank: "<layer>.lora_A" and ".lora_B", float32 on the CPU.
    ema: a running mean of the bank, if the trainer keeps one. anchors: other weights by name (the behaviour policy of
    some trainers, the value baseline of DPOK, the LoRA that is the reference, what samples one
    iteration behind). optimizer: AdamW's moments, keyed
    "<bank key>.exp_avg" and ".exp_avg_sq". step: optimizer steps made. metrics: the report of the last train step.
    memory: whatever a feedback rule carries between iterations (JSON-serialisable). iteration: train steps made. method:
    whose numbers are recommended, by the table's name, empty: the usual ones of the model. numbers: those that the last
    train step used (JSON-serialisable). run: name and id of the run that trains it; no part of its state.
    """

    model: ModelPatcher
    recipe: Recipe
    bank: Bank
    ema: Bank | None = None
    anchors: dict[str, Bank] = field(default_factory=dict)
    optimizer: Bank = field(default_factory=dict)
    step: int = 0
    iteration: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    memory: dict = field(default_factory=dict)
    method: str = ""
    numbers: dict = field(default_factory=dict)
    run: dict = field(default_factory=dict)
    __repr__ = brief

    def state(self) -> tuple[Bank, dict]:
        """Everything that a resume needs: tensors, and a JSON-serialisable dictionary."""
        tensors = {f"bank/{k}": v for k, v in self.bank.items()}
        tensors |= {f"optimizer/{k}": v for k, v in self.optimizer.items()}
        for name, bank in {**self.anchors, **({"ema": self.ema} if self.ema is not None else {})}.items():
            tensors |= {f"copy/{name}/{k}": v for k, v in bank.items()}
        meta = {"step": self.step, "iteration": self.iteration, "metrics": self.metrics, "memory": self.memory,
                "rank": self.recipe.rank, "alpha": self.recipe.alpha, "start": self.recipe.start, "numbers": self.numbers}
        return tensors, meta

    def with_state(self, tensors: Bank, meta: dict) -> Policy:
        """The policy that ``state`` described, on this policy's model. ValueError where the layers differ."""
        parts: dict[str, Bank] = {"bank": {}, "optimizer": {}}
        copies: dict[str, Bank] = {}
        for key, value in tensors.items():
            kind, rest = key.split("/", 1)
            if kind == "copy":
                name, rest = rest.split("/", 1)
                copies.setdefault(name, {})[rest] = value
            else:
                parts[kind][rest] = value
        shapes = {k: v.shape for k, v in self.bank.items()}
        if shapes != {k: v.shape for k, v in parts["bank"].items()}:
            raise ValueError("policy: the saved state was trained with other layers or another rank than this policy; "
                             "use the same model, layers and rank, or another run name")
        copies = {name: bank for name, bank in copies.items() if name != REFERENCE or REFERENCE in self.anchors}
        if REFERENCE in self.anchors:  # as it was when the run began
            copies.setdefault(REFERENCE, self.anchors[REFERENCE])
        return replace(self, bank=parts["bank"], optimizer=parts["optimizer"], ema=copies.pop("ema", None),
                       anchors=copies, step=int(meta["step"]), iteration=int(meta["iteration"]),
                       metrics=dict(meta["metrics"]), numbers=dict(meta.get("numbers", {})),
                       memory=json.loads(json.dumps(meta["memory"])))

    def weights(self, use_average: bool = True) -> Bank:
        """The bank to generate with: the running mean where there is one."""
        return self.ema if use_average and self.ema is not None else self.bank

    def members(self) -> dict[str, Member]:
        """How each layer of the bank is adapted."""
        return members_of(trainable_layers(self.model.model.diffusion_model, self.recipe), self.recipe)

    def chosen(self, weights: str) -> Bank | None:
        """The bank called "behaviour" (what samples while training), "trained" (what is exported) or "reference"."""
        banks = {"behaviour": self.anchors.get("old", self.bank), "trained": self.weights(), "reference": None}
        return banks[weights]


def create_policy(model: ModelPatcher, recipe: Recipe, method: str = "") -> Policy:
    """A policy that equals the reference: B is zero. ValueError names what is wrong with model, rank or layers.

    method: of the table of recommended numbers, for what the recipe leaves open; empty: the usual one of the model.
    """
    if recipe.rank < 1:
        raise ValueError(f"rank: {recipe.rank} is not possible; choose 1 or more")
    if not 0 < recipe.alpha < math.inf:
        raise ValueError(f"alpha: {recipe.alpha} is not possible; choose a number above 0")
    check_model(model)
    with torch.inference_mode(False):
        layers = trainable_layers(model.model.diffusion_model, recipe)
        if recipe.open:
            recipe = recommended_lora(recipe, recommended(model, method), largest_rank(layers))
        return Policy(model=model, recipe=recipe, bank=new_bank(layers, recipe), method=method)


def policy_from_lora(model: ModelPatcher, lora: ReadLora, anchored: bool, method: str = "") -> Policy:
    """A policy that begins as this LoRA on this model. anchored: the reference is the LoRA as it came, else the model without."""
    check_model(model)
    largest = max(lora.members.values(), key=lambda member: member.rank)
    recipe = Recipe(rank=largest.rank, alpha=largest.alpha, start=FROM_LORA, members=lora.members)
    return Policy(model=model, recipe=recipe, bank=lora.bank, anchors={REFERENCE: lora.bank} if anchored else {}, method=method)
