"""Which family of models a model belongs to, told by signs that it carries itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# what all models of a family show, and no others: their latents' format, and where families share one, the network's own
# configuration. Fine-tunes, merges and quantised files of a model show the same.
SIGNS: dict[str, dict[str, object]] = {
    "SD1.5": {"flow": False, "latents": "SD15", "context_dim": 768},
    "SDXL": {"flow": False, "latents": "SDXL", "context_dim": 2048},
    "SD3.5": {"flow": True, "latents": "SD3"},
    "Flux": {"flow": True, "latents": "Flux", "image_model": "flux"},
    "Qwen-Image": {"flow": True, "latents": "Wan21", "image_model": "qwen_image"},
    "Z-Image": {"flow": True, "latents": "Flux", "image_model": "lumina2", "dim": 3840},
}
OTHER_EPS, OTHER_FLOW = "other eps", "other flow"
FAMILIES = (*SIGNS, OTHER_EPS, OTHER_FLOW)


class Family(NamedTuple):
    """name: one of FAMILIES; words: how it was told, for the user."""

    name: str
    words: str


def family_of(signs: Mapping[str, object]) -> Family:
    """signs: "flow" (whether it is a flow model), "latents" (the name of its latents' format), and what the configuration
    of its network says."""
    for name, wanted in SIGNS.items():
        if all(signs.get(key) == value for key, value in wanted.items()):
            told = ", ".join(f"{key} {value}" for key, value in wanted.items() if key != "flow")
            return Family(name, f"{name}, told by: {told}")
    latents = signs.get("latents")
    if signs.get("flow"):
        return Family(
            OTHER_FLOW, f"a flow model of no family with numbers of its own (latents {latents}), so those of any such one"
        )
    return Family(
        OTHER_EPS,
        f"a noise-predicting model of no family with numbers of its own (latents {latents}), so those of any such one",
    )
