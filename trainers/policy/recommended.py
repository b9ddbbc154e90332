"""The recommended numbers for a model: its family, read off the MODEL, and the row of the table for a method."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..recipes.families import Family, family_of
from ..recipes.settle import settled
from ..recipes.table import Row, row
from .bank import Recipe
from .levels import path_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def signs_of(model: ModelPatcher) -> dict[str, object]:
    """What a MODEL says of itself, see ``family_of``."""
    config = getattr(getattr(model.model, "model_config", None), "unet_config", {})
    plain: dict[str, object] = {key: value for key, value in config.items() if isinstance(value, (str, int))}
    return plain | {
        "flow": path_of(model.get_model_object("model_sampling")).name == "flow",
        "latents": type(model.model.latent_format).__name__,
    }


def family(model: ModelPatcher) -> Family:
    return family_of(signs_of(model))


def recommended(model: ModelPatcher, method: str = "") -> Row:
    """method: by the table's name; empty: the classic one of the model's kind. Where the table has none for it, the classic
    one's numbers stand in, and ``why_not`` says why."""
    signs = signs_of(model)
    name, classic = family_of(signs).name, "FlowGRPO" if signs["flow"] else "DDPO"
    found = row(method or classic, name)
    return found if found.numbers else replace(row(classic, name), why_not=found.why_not)


def recommended_lora(recipe: Recipe, found: Row, room: int) -> Recipe:
    """room: the largest rank that the layers allow. An open alpha keeps the source's alpha / rank for a rank that was typed."""
    values: dict[str, Any] = found.values("lora")
    new = settled(recipe, recipe.open, values)
    if "rank" in recipe.open:
        new = replace(new, rank=min(new.rank, room))
    if "alpha" in recipe.open and values:
        new = replace(new, alpha=new.rank * values["alpha"] / values["rank"])
    return new
