"""What other tools show of a LoRA file: the entries that kohya's trainers write, and those of Stability's model spec."""

from __future__ import annotations

import comfy.model_base

from .interchange import Lora

# the host's class of the model: (kohya's ss_base_model_version, the spec's architecture), where these tools have a name for it
BASES = {
    "SD15": ("sd_v1", "stable-diffusion-v1"),
    "SD20": ("sd_v2", "stable-diffusion-v2-512"),
    "SDXL": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    "SD3": ("", "stable-diffusion-3"),
    "Flux": ("flux1", "flux-1-dev"),
    "FluxSchnell": ("flux1", "flux-1-schnell"),
    "Chroma": ("", "chroma"),
    "Lumina2": ("", "lumina-2"),
}


def facts_for_tools(lora: Lora, model) -> dict[str, str]:
    """Base model where these tools have a name for it, rank and alpha ("Dynamic" where layers differ), trigger words empty."""
    version, architecture = BASES.get(type(model.model.model_config).__name__, ("", ""))
    if version == "sd_v2" and model.model.model_type == comfy.model_base.ModelType.V_PREDICTION:
        architecture = "stable-diffusion-v2-768-v"
    facts = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": _one({pair.rank for pair in lora.values()}),
        "ss_network_alpha": _one({pair.alpha for pair in lora.values()}),
        "ss_tag_frequency": "{}",
        "modelspec.trigger_phrase": "",
    }
    if version:
        facts["ss_base_model_version"] = version
    if architecture:
        facts |= {"modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": f"{architecture}/lora"}
    return facts


def _one(numbers: set) -> str:
    return f"{numbers.pop():g}" if len(numbers) == 1 else "Dynamic"
