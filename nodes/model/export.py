"""Writes the trained LoRA where LoraLoader finds it, for ComfyUI or for other tools."""
from __future__ import annotations

import json
from pathlib import Path

from ...rewards.base import ranks
from ...rewards.base.names import found_beside, possible
from ...rewards.base.words import shown
from ...trainers.run import STOPPED_BY
from ..privacy import for_others
from ..sockets import MENU, POLICY

SAVE_LORA = "PTSaveLora"
SUFFIX, WEIGHTS = ".safetensors", "adapter_model.safetensors"  # the second is peft's, in its folder
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
                                                "number of train steps, {run} the run's name. Another LoRA of that name is never "
                                                "replaced: the name counts up."})},
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
        name, facts = checked_name(filled(file_name, policy)), card(policy, prompt, extra_pnginfo)
        if loras_below == LEAVE_OUT and FOR[made_for] == "ComfyUI" and not is_pairs(policy):
            tensors = lora_state_dict(policy, precision=precision)
            path = save_tensors(tensors, free_path(lora_folder() / f"{name}.safetensors", tensors), facts)
            return told(path, [], name, lora_state_dict(policy))
        lora, words = chosen(policy, loras_below, rank)
        facts |= facts_for_tools(lora, policy.model)
        path = written(lora, policy.model, lora_folder() / name, FOR[made_for], precision, facts)
        return told(path, words, name, in_names(lora, policy.model, "ComfyUI"))


def filled(file_name: str, policy) -> str:
    """A file's name with the train steps and the run's name in their places."""
    run = policy.run.get("name", "no run")
    return file_name.replace("{step}", str(policy.iteration)).replace("{run}", run)


def told(path: Path, words: list[str], name: str, lora) -> dict:
    """What the node shows and hands out: the file as LoraLoader lists it, and for the page where it lies."""
    file = path.relative_to(lora_folder()).as_posix()
    shown = path.relative_to((lora_folder() / name).parent).as_posix()
    return {"ui": {"text": [f"Saved as {shown}", *words], "posttrain_file": [str(path)]}, "result": (file, lora)}


def free_path(path: Path, tensors: dict) -> Path:
    """Where the LoRA goes: the path itself, or with the first number from 2 on at which no other LoRA lies, also none whose name
    differs in case alone. For a folder its own name counts."""
    wanted, number = path, 1
    while (there := found_beside(path)) and (there != path or not holds(path / WEIGHTS if path.is_dir() else path, tensors)):
        number += 1
        stem, suffix = (wanted.stem, SUFFIX) if wanted.suffix == SUFFIX else (wanted.name, "")
        path = wanted.with_name(f"{stem}_{number}{suffix}")
    return path


def holds(path: Path, tensors: dict) -> bool:
    """Whether a file has these very weights, so that nothing is lost where it is written anew."""
    import safetensors
    import torch
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            same = set(file.keys()) == set(tensors)
            return same and all(torch.equal(file.get_tensor(key), tensors[key].detach().cpu()) for key in tensors)
    except (OSError, safetensors.SafetensorError, RuntimeError):
        return False


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
    from ...trainers.policy.peft_folder import save_peft_folder
    tensors = in_names(lora, model, target, precision)
    if target == "peft":
        return save_peft_folder(lora, model, free_path(path, tensors), facts, precision) / WEIGHTS
    return save_tensors(tensors, free_path(path.with_name(f"{path.name}{SUFFIX}"), tensors), facts)


def checked_name(name: str) -> str:
    """The name with forward slashes. ValueError where it would leave the folder or no file could be called so."""
    if not isinstance(name, str):
        raise ValueError(f"file name: a text is needed, but {type(name).__name__} came")
    clean = name.strip().replace("\\", "/").removesuffix(".safetensors")
    parts = clean.replace("{step}", "0").replace("{run}", "run").split("/")
    if not clean or any(wrong_part(part) for part in parts) or len(parts) > DEEPEST:
        raise ValueError(f"file name: '{shown(name)}' is not possible; use letters, digits, spaces, - and _, with / between "
                         f"folders, {LONGEST} characters at most in each, and no name that Windows keeps for itself (con, nul)")
    return clean


def wrong_part(part: str) -> bool:
    """Whether no file or folder can be called so on every system."""
    return not possible(part) or not part.strip(" .") or part.strip() != part or len(part.encode()) > LONGEST


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
        facts |= {"posttrain.run": policy.run.get("name", ""), "posttrain.run_id": policy.run.get("id", ""),
                  "posttrain.rewards": json.dumps(rewards_of(prompt or {}))}
        if prompt is not None:
            facts["prompt"] = json.dumps(for_others(prompt))
        if extra_pnginfo and "workflow" in extra_pnginfo:
            facts["workflow"] = json.dumps(for_others(extra_pnginfo["workflow"]))
    return {key: str(value) for key, value in facts.items()}


def rewards_of(prompt: dict) -> list[str]:
    """The rewards of a workflow, by the names of their nodes."""
    kinds = (str(node.get("class_type", "")) for node in prompt.values())
    return sorted({kind for kind in kinds if kind.startswith("PTReward")})


def metadata_is_off() -> bool:
    """Whether ComfyUI was told to write no workflow into files (--disable-metadata)."""
    from comfy.cli_args import args
    return bool(getattr(args, "disable_metadata", False))


NODES = {SAVE_LORA: PTSaveLora}
NAMES = {"PTSaveLora": "Save LoRA (PostTrain)"}
