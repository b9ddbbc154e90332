"""The trained bank as an ordinary LoRA: for the stock LoraLoader, or as a MODEL in the same graph."""
from __future__ import annotations

from pathlib import Path

import comfy.hooks
import comfy.sd
import safetensors.torch
import torch

from ...rewards.base.files import written_whole
from .interchange import stored
from .kinds import BIAS, PAIR, WEIGHT
from .value import Policy

KEYFRAMES = 20


def lora_state_dict(policy: Policy, use_average: bool = True, precision: str = "float32") -> dict[str, torch.Tensor]:
    """Keys that any ComfyUI loader knows: "diffusion_model.<layer>.lora_A.weight", "lora_B.weight" and ".alpha"; of other kinds
    those that the host's Train LoRA writes; ".diff" and ".diff_b" for a norm's weight and for biases. precision: a key of
    PRECISIONS."""
    tensors, weights = {}, policy.weights(use_average)
    for layer, member in policy.members().items():
        name = f"diffusion_model.{layer}"
        for part in member.parts:
            tensors[f"{name}.{part}.weight" if part in PAIR else f"{name}.{part}"] = (
                stored(weights[f"{layer}.{part}"].detach(), precision, name))
        if set(member.parts) - {WEIGHT, BIAS}:
            tensors[f"{name}.alpha"] = torch.tensor(float(member.alpha))
    return tensors


def policy_as_model(policy: Policy, strength: float = 1.0, use_average: bool = True):
    """A MODEL that generates as the policy does: the user's own with the LoRA as ordinary patches."""
    model, _ = comfy.sd.load_lora_for_models(policy.model, None, lora_state_dict(policy, use_average), strength, 0)
    return model


def policy_as_hooks(policy: Policy, start: float, end: float, use_average: bool = True):
    """The LoRA as ComfyUI's hooks, its strength going from ``start`` at the first sampling step to ``end`` at the last.

    From 0 to 1 it is near to the annealed guidance of DRaFT+ (NeMo-Aligner), which weighs the tuned model by the step's place
    in the sampling; there the two predictions are mixed (annealed.py), here the weights. The strength moves in KEYFRAMES stages.
    """
    hooks = comfy.hooks.create_hook_lora(lora_state_dict(policy, use_average), 1.0, 0.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for k in range(KEYFRAMES):
        strength = start + (end - start) * (k / (KEYFRAMES - 1))
        keyframes.add(comfy.hooks.HookKeyframe(strength, start_percent=k / KEYFRAMES, guarantee_steps=0))
    hooks.set_keyframes_on_hooks(keyframes)
    return hooks


def save_lora(policy: Policy, path: str | Path, metadata: dict[str, str], use_average: bool = True) -> Path:
    """What was learned, in ComfyUI's names; as ``save_tensors``."""
    return save_tensors(lora_state_dict(policy, use_average), path, metadata)


def save_tensors(tensors: dict[str, torch.Tensor], path: str | Path, metadata: dict[str, str]) -> Path:
    """Writes a LoRA whole or not at all. OSError says what stopped it; an older file of that name is kept then."""
    path = Path(path)
    try:
        with written_whole(path) as beside:
            safetensors.torch.save_file(tensors, beside, {k: str(v) for k, v in metadata.items()})
    except Exception as error:
        raise OSError(f"the LoRA could not be written to {path}: {error}; free some space or choose another name. "
                      "The policy itself is not lost") from error
    return path
