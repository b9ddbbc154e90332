"""Writes the trained LoRA where LoraLoader finds it, for ComfyUI or for other tools."""
from __future__ import annotations

import json
import re
from pathlib import Path

from ...rewards.base import ranks
from ...rewards.base.words import shown, unwritable
from ...trainers.run import STOPPED_BY
from ...trainers.run.folder import RESERVED
from ..privacy import for_others
from ..sockets import MENU, POLICY

SAVE_LORA = "PTSaveLora"
LONGEST, DEEPEST = 120, 8
FOR = {"ComfyUI": "ComfyUI", "Forge, A1111, InvokeAI (kohya's names)": "kohya", "diffusers (one file)": "diffusers",
       "peft (a folder, also for diffusers)": "peft"}
LEAVE_OUT, ADD, ADD_CUT = "leave them out", "add them, exactly", "add them, cut to a rank"


class PTSaveLora:
    DESCRIPTION = ("Saves what was learned as an ordinary LoRA in models/loras, for LoraLoader in any workflow. Works "
                   "after the loop and inside it.")
    CATEGORY, FUNCTION, OUTPUT_NODE = f"{MENU}/8 Export", "run", True
    RETURN_TYPES, RETURN_NAMES = ("STRING", "LORA_MODEL"), ("file", "lora")
    OUTPUT_TOOLTIPS = ("The LoRA's name, as LoraLoader lists it.",
                       "The same LoRA for ComfyUI's own Load LoRA Model and Save LoRA Weights.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.policy.interchange import PRECISIONS
        return {"required": {
            "policy": (POLICY, {"tooltip": "The policy to save, usually from Loop End or Train."}),
            "file_name": ("STRING", {"default": "posttrain/my_lora",
                                     "tooltip": "Name in models/loras; a folder before it is fine. {step} becomes the "
                                                "number of train steps. A file of that name is replaced."})},
            "optional": {
            "made_for": (tuple(FOR), {"tooltip": "Which tool shall read it. ComfyUI reads its own form and kohya's."}),
            "precision": (tuple(PRECISIONS), {"tooltip": "Of the numbers in the file. float16 and bfloat16 halve its size."}),
            "loras_below": ((LEAVE_OUT, ADD, ADD_CUT), {"tooltip": "LoRAs that were on the model before Create Policy: left out, "
                            "as they are loaded beside this one; or in the same file, exactly, ranks added; or the sum cut to "
                            "a rank, and the node says what that loses."}),
            "rank": ("INT", {"default": 0, "min": 0, "max": 1024, "tooltip": "Of the cut. 0: the policy's."})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    @classmethod
    def VALIDATE_INPUTS(cls, file_name=None):
        try:  # before the training, not after it; a wired name is not known yet
            return file_name is None or bool(checked_name(file_name))
        except ValueError as error:
            return str(error)

    def run(self, policy, file_name, made_for="ComfyUI", precision="float32", loras_below=LEAVE_OUT, rank=0, prompt=None,
            extra_pnginfo=None):
        from ...trainers.policy.card import facts_for_tools
        from ...trainers.policy.export import lora_state_dict, save_tensors
        from ...trainers.policy.interchange import in_names, is_pairs
        name = checked_name(file_name.replace("{step}", str(policy.iteration)))
        facts = card(policy, prompt, extra_pnginfo)
        if loras_below == LEAVE_OUT and FOR[made_for] == "ComfyUI" and not is_pairs(policy):
            path = save_tensors(lora_state_dict(policy, precision=precision), lora_folder() / f"{name}.safetensors", facts)
            return {"ui": {"text": [f"Saved {path.name}"]}, "result": (f"{name}.safetensors", lora_state_dict(policy))}
        lora, words = chosen(policy, loras_below, rank)
        facts |= facts_for_tools(lora, policy.model)
        path = written(lora, policy.model, lora_folder() / name, FOR[made_for], precision, facts)
        file = path.relative_to(lora_folder()).as_posix()
        shown = path.relative_to((lora_folder() / name).parent).as_posix()
        return {"ui": {"text": [f"Saved {shown}", *words]}, "result": (file, in_names(lora, policy.model, "ComfyUI"))}


def chosen(policy, loras_below: str, rank: int):
    """The LoRA to save, layer by layer, and what the node says of it."""
    from ...trainers.policy.interchange import trained
    from ...trainers.policy.together import together
    if loras_below == LEAVE_OUT:
        return trained(policy), []
    cut = (rank or policy.recipe.rank) if loras_below == ADD_CUT else None
    found = together(policy, cut)
    words = [f"LoRAs below: added on {found.below} layers" if found.below else "LoRAs below: there are none"]
    if cut is not None:
        words.append(f"Cut to rank {cut}: {found.lost:.2%} of the whole was lost (Frobenius norm, over all layers)")
    return found.lora, words


def written(lora, model, path: Path, target: str, precision: str, facts: dict[str, str]) -> Path:
    """The file with the weights; of peft's folder, the one in it."""
    from ...trainers.policy.export import save_tensors
    from ...trainers.policy.interchange import in_names
    from ...trainers.policy.peft_folder import WEIGHTS, save_peft_folder
    if target == "peft":
        return save_peft_folder(lora, model, path, facts, precision) / WEIGHTS
    return save_tensors(in_names(lora, model, target, precision), path.with_name(f"{path.name}.safetensors"), facts)


def checked_name(name: str) -> str:
    """The name with forward slashes. ValueError where it would leave the folder or no file could be called so."""
    if not isinstance(name, str):
        raise ValueError(f"file name: a text is needed, but {type(name).__name__} came")
    clean = name.strip().replace("\\", "/").removesuffix(".safetensors")
    parts = clean.replace("{step}", "0").split("/")
    if not clean or any(wrong_part(part) for part in parts) or len(parts) > DEEPEST:
        raise ValueError(f"file name: '{shown(name)}' is not possible; use letters, digits, spaces, - and _, with / between "
                         f"folders, {LONGEST} characters at most in each, and no name that Windows keeps for itself (con, nul)")
    return clean


def wrong_part(part: str) -> bool:
    """Whether no file or folder can be called so on every system."""
    return (not part.strip(" .") or part.strip() != part or part.endswith(".") or unwritable(part) or len(part.encode()) > LONGEST
            or bool(re.search(r'[<>:"|?*]', part) or RESERVED.fullmatch(part)))


def lora_folder() -> Path:
    """Where LoRAs are saved; of several processes that share a training only the first one's are kept."""
    import folder_paths
    if ranks.helps():
        return Path(folder_paths.get_output_directory()) / "loras"
    return Path(folder_paths.get_folder_paths("loras")[0])


def card(policy, prompt, extra_pnginfo) -> dict[str, str]:
    """What the LoRA was trained on and how, as safetensors metadata: the workflow without this machine's paths and
    without addresses, or not at all where ComfyUI shall write none."""
    metrics = {k: v for k, v in policy.metrics.items() if isinstance(v, (int, float)) or k == STOPPED_BY}
    facts = {"format": "pt", "posttrain.steps": policy.iteration, "posttrain.optimizer_steps": policy.step,
             "posttrain.rank": policy.recipe.rank, "posttrain.alpha": policy.recipe.alpha,
             "posttrain.start": policy.recipe.start, "posttrain.numbers": json.dumps(for_others(policy.numbers)),
             "posttrain.base_model": type(policy.model.model).__name__, "posttrain.metrics": json.dumps(metrics)}
    if not metadata_is_off():
        if prompt is not None:
            facts["prompt"] = json.dumps(for_others(prompt))
        if extra_pnginfo and "workflow" in extra_pnginfo:
            facts["workflow"] = json.dumps(for_others(extra_pnginfo["workflow"]))
    return {key: str(value) for key, value in facts.items()}


def metadata_is_off() -> bool:
    """Whether ComfyUI was told to write no workflow into files (--disable-metadata)."""
    from comfy.cli_args import args
    return bool(getattr(args, "disable_metadata", False))


NODES = {SAVE_LORA: PTSaveLora}
NAMES = {"PTSaveLora": "Save LoRA (PostTrain)"}
