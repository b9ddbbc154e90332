"""Writes the trained LoRA where LoraLoader finds it."""
from __future__ import annotations

import json
import re
from pathlib import Path

from ..sockets import MENU, POLICY


class PTSaveLora:
    DESCRIPTION = ("Saves what was learned as an ordinary LoRA in models/loras, for LoraLoader in any workflow. Works "
                   "after the loop and inside it.")
    CATEGORY, FUNCTION, OUTPUT_NODE = f"{MENU}/8 Export", "run", True
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("file",)
    OUTPUT_TOOLTIPS = ("The LoRA's name, as LoraLoader lists it.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "The policy to save, usually from Loop End or Train."}),
            "file_name": ("STRING", {"default": "posttrain/my_lora",
                                     "tooltip": "Name in models/loras; a folder before it is fine. {step} becomes the "
                                                "number of train steps. A file of that name is replaced."})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    def run(self, policy, file_name, prompt=None, extra_pnginfo=None):
        from ...trainers.policy import save_lora
        name = checked_name(file_name.replace("{step}", str(policy.iteration)))
        path = save_lora(policy, lora_folder() / f"{name}.safetensors", card(policy, prompt, extra_pnginfo))
        return {"ui": {"text": [f"Saved {path.name}"]}, "result": (f"{name}.safetensors",)}


def checked_name(name: str) -> str:
    """The name with forward slashes. ValueError where it would leave the folder or no file could be called so."""
    clean = name.strip().replace("\\", "/").removesuffix(".safetensors")
    parts = clean.split("/")
    if not clean or any(not part.strip(" .") or re.search(r'[<>:"|?*\x00-\x1f]', part) for part in parts):
        raise ValueError(f"file name: {name!r} is not possible; use letters, digits, spaces, - and _, with / between "
                         "folders")
    return clean


def lora_folder() -> Path:
    import folder_paths
    return Path(folder_paths.get_folder_paths("loras")[0])


def card(policy, prompt, extra_pnginfo) -> dict[str, str]:
    """What the LoRA was trained on and how, as safetensors metadata."""
    metrics = {k: v for k, v in policy.metrics.items() if isinstance(v, (int, float))}
    facts = {"format": "pt", "posttrain.steps": policy.iteration, "posttrain.optimizer_steps": policy.step,
             "posttrain.rank": policy.recipe.rank, "posttrain.alpha": policy.recipe.alpha,
             "posttrain.start": policy.recipe.start, "posttrain.numbers": json.dumps(policy.numbers),
             "posttrain.base_model": type(policy.model.model).__name__, "posttrain.metrics": json.dumps(metrics)}
    if prompt is not None:
        facts["prompt"] = json.dumps(prompt)
    if extra_pnginfo and "workflow" in extra_pnginfo:
        facts["workflow"] = json.dumps(extra_pnginfo["workflow"])
    return {key: str(value) for key, value in facts.items()}


NODES = {"PTSaveLora": PTSaveLora}
NAMES = {"PTSaveLora": "Save LoRA (PostTrain)"}
