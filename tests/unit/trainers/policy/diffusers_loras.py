"""LoRA files between ComfyUI and diffusers, on the networks of diffusers_families: each read by the other's own loader."""

from __future__ import annotations

import bisect
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import comfy.sd
import comfy.utils
import safetensors.torch
import torch
from posttrain.nodes.model.lora_file import read_at
from posttrain.tests.unit.trainers.policy.diffusers_families import (
    Question,
    Twin,
    answer,
    comfyui_model,
    diffusers_network,
    questions,
)
from posttrain.trainers.policy import Policy, Recipe, create_policy, policy_as_model, save_lora
from posttrain.trainers.policy.from_lora import read_lora
from posttrain.trainers.policy.interchange import DIFFUSERS, KOHYA, lora_as, trained
from posttrain.trainers.policy.peft_folder import save_peft_folder
from posttrain.trainers.policy.value import policy_from_lora

RANK, ALPHA = 3, 5.0
STRENGTH = 0.1  # of B, at which the file changes the answer by about as much as it is
# outside of the blocks, and what no LoRA of the field trains
UNTRAINED = ("norm", "adaLN", "modulation", "time_emb", "proj_out", "gate", "caption_projection", "distilled_guidance")


@dataclass(frozen=True)
class Read:
    """What came of a file: ``error`` is the largest difference of the two networks' answers, as a share of what the file
    changes; ``refused`` are the reader's words where it took nothing."""

    error: float
    refused: str = ""


def trained_policy_of(twin: Twin, targets: str = "attention and feed-forward", pattern: str = "") -> Policy:
    """A bank that changes the answer, with an alpha that is not its rank."""
    policy = create_policy(comfyui_model(twin), Recipe(rank=RANK, alpha=ALPHA, targets=targets, pattern=pattern))
    generator = torch.Generator().manual_seed(7)
    for name, value in policy.bank.items():
        if name.endswith("lora_B"):
            value.copy_(torch.randn(value.shape, generator=generator) * STRENGTH)
    return policy


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.diffusion_model.state_dict().items()}


def pipeline_of(twin: Twin, network: torch.nn.Module):
    """diffusers' pipeline with this network and nothing else, which is all that its loader of LoRAs needs."""
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    kind = getattr(diffusers, twin.pipeline)
    wanted = inspect.signature(kind.__init__).parameters.values()
    parts = {each.name: None for each in wanted if each.name != "self" and each.default is inspect.Parameter.empty}
    return kind(**{**parts, twin.prefix: network})


def largest_error(network, twin: Twin, asked: list[Question]) -> float:
    return max(float((answer(network, twin, question) - question.answer).abs().max()) for question in asked)


def comfyui_names(twin: Twin, policy: Policy, folder: Path) -> None:
    save_lora(policy, folder / "lora.safetensors", {})


def sources(twin: Twin, weights: dict[str, torch.Tensor]) -> dict[str, tuple[str, torch.Tensor]]:
    """diffusers' weight: ComfyUI's and the rows of it, seen by sending row numbers through the converter of checkpoints."""
    layers = [name for name, value in weights.items() if name.endswith(".weight") and value.ndim > 1]
    sizes = [len(weights[name]) for name in layers]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    numbers = {name: torch.arange(start, start + size)[:, None] for name, start, size in zip(layers, starts, sizes)}
    found = {}
    for theirs, rows in twin.convert(twin, {**weights, **numbers}).items():
        if rows.dtype == torch.int64 and theirs.endswith(".weight"):
            ours = bisect.bisect_right(starts, int(rows.min())) - 1
            found[theirs.removesuffix(".weight")] = (layers[ours].removesuffix(".weight"), rows[:, 0] - starts[ours])
    return found


def laid_out_there(twin: Twin, policy: Policy) -> dict[str, torch.Tensor]:
    """The bank as diffusers' own converter lays out whole checkpoints: what a file for it should hold. alpha is in B."""
    file = {}
    network = diffusers_network(twin, weights_of(policy.model)).state_dict()
    for theirs, (layer, rows) in sources(twin, weights_of(policy.model)).items():
        if f"{layer}.lora_A" in policy.bank and f"{theirs}.weight" in network:
            a, b = (policy.bank[f"{layer}.{part}"] for part in ("lora_A", "lora_B"))
            file[f"{twin.prefix}.{theirs}.lora_A.weight"] = a.clone()
            file[f"{twin.prefix}.{theirs}.lora_B.weight"] = (b[rows] * policy.recipe.scale).contiguous()
    return file


def save_for_diffusers(twin: Twin, policy: Policy, folder: Path) -> None:
    safetensors.torch.save_file(laid_out_there(twin, policy), folder / "lora.safetensors")


def save_for_peft(twin: Twin, policy: Policy, folder: Path) -> None:
    """A folder of peft's: adapter_config.json by its own LoraConfig, and the weights beside it."""
    import peft

    file = {name.removeprefix(f"{twin.prefix}."): value for name, value in laid_out_there(twin, policy).items()}
    layers = sorted({name.rsplit(".lora_", 1)[0] for name in file})
    peft.LoraConfig(r=policy.recipe.rank, lora_alpha=policy.recipe.rank, target_modules=layers).save_pretrained(str(folder))
    named = {f"base_model.model.{name}": value for name, value in file.items()}
    safetensors.torch.save_file(named, folder / "adapter_model.safetensors")


def read_by_peft(twin: Twin, policy: Policy, folder: Path) -> Read:
    """``folder``: one of peft's, with the LoRA of this policy."""
    import peft

    network = diffusers_network(twin, weights_of(policy.model))
    asked = questions(policy_as_model(policy), twin)
    change = largest_error(network, twin, asked)
    wrapped = peft.PeftModel.from_pretrained(network, str(folder))
    return Read(largest_error(wrapped.base_model.model, twin, asked) / change)


def read_there(twin: Twin, policy: Policy, folder: Path) -> Read:
    """``folder``: with a LoRA file of this policy; read by the loader of the family's pipeline."""
    network = diffusers_network(twin, weights_of(policy.model))
    asked = questions(policy_as_model(policy), twin)
    change = largest_error(network, twin, asked)
    pipeline = pipeline_of(twin, network)
    if not hasattr(pipeline, "load_lora_weights"):
        return Read(1.0, "diffusers has no loader of LoRAs for it")
    try:
        pipeline.load_lora_weights(str(folder), weight_name="lora.safetensors")
    except (ValueError, RuntimeError, KeyError, AssertionError) as error:
        return Read(1.0, str(error).partition("\n")[0] or type(error).__name__)
    return Read(largest_error(network, twin, asked) / change)


def in_names_of(target: str) -> Callable[[Twin, Policy, Path], None]:
    """The pack's own export."""

    def save(twin: Twin, policy: Policy, folder: Path) -> None:
        safetensors.torch.save_file(lora_as(policy, target), folder / "lora.safetensors")

    return save


def as_a_folder_of_pefts(twin: Twin, policy: Policy, folder: Path) -> None:
    save_peft_folder(trained(policy), policy.model, folder, {})


# how it is saved here, and read there
OUT: dict[str, tuple[Callable, Callable]] = {
    "ComfyUI's names": (comfyui_names, read_there),
    "kohya's names": (in_names_of(KOHYA), read_there),
    "diffusers' names": (in_names_of(DIFFUSERS), read_there),
    "peft's folder": (as_a_folder_of_pefts, read_by_peft),
}


def trained_layers(network: torch.nn.Module) -> list[str]:
    """Linear layers of the network's blocks: what LoRAs of the field are made of."""
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and any(part.isdigit() for part in name.split("."))
        and not any(word in name for word in UNTRAINED)
    ]


def peft_network(twin: Twin, weights: dict[str, torch.Tensor], alpha: float):
    """diffusers' network as peft's model, with a LoRA that changes its answer."""
    import peft

    network = diffusers_network(twin, weights)
    config = peft.LoraConfig(r=RANK, lora_alpha=alpha, target_modules=trained_layers(network), init_lora_weights="gaussian")
    wrapped = peft.get_peft_model(network, config)
    generator = torch.Generator().manual_seed(7)
    for name, value in wrapped.named_parameters():
        if "lora_B" in name:
            value.data.copy_(torch.randn(value.shape, generator=generator) * STRENGTH)
    return wrapped


def as_pipeline_saves(twin: Twin, wrapped, folder: Path) -> None:
    """As diffusers' training scripts do."""
    import diffusers
    import peft

    layers = peft.get_peft_model_state_dict(wrapped)
    layers = {name.removeprefix("base_model.model."): value for name, value in layers.items()}
    kind = getattr(diffusers, twin.pipeline)
    kind.save_lora_weights(
        str(folder),
        weight_name="lora.safetensors",
        **{
            f"{twin.prefix}_lora_layers": layers,
            f"{twin.prefix}_lora_adapter_metadata": wrapped.peft_config["default"].to_dict(),
        },
    )


def as_peft_saves(twin: Twin, wrapped, folder: Path) -> None:
    """adapter_model.safetensors beside adapter_config.json."""
    wrapped.save_pretrained(str(folder))
    (folder / "adapter_model.safetensors").rename(folder / "lora.safetensors")


def as_diffusers_makes_it_kohyas(twin: Twin, wrapped, folder: Path) -> None:
    """By diffusers' own function for other programs."""
    import peft
    from diffusers.utils import convert_state_dict_to_kohya

    layers = peft.get_peft_model_state_dict(wrapped)
    layers = {f"unet.{name.removeprefix('base_model.model.')}": value for name, value in layers.items()}
    found = {name: value.contiguous().clone() for name, value in convert_state_dict_to_kohya(layers).items()}
    safetensors.torch.save_file(found, folder / "lora.safetensors")


IN: dict[str, Callable] = {
    "as its pipeline saves it": as_pipeline_saves,
    "as peft saves it": as_peft_saves,
    "under kohya's names": as_diffusers_makes_it_kohyas,
}


def stock_loader(model, folder: Path):
    """The MODEL with the file in ``folder`` by ComfyUI's LoraLoader, and "" or why not."""
    file = comfy.utils.load_torch_file(str(folder / "lora.safetensors"), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, file, 1.0, 0)
    return patched, "" if patched.patches else "it knows none of the names"


def create_policy_from(model, folder: Path):
    """The same by a policy that begins from it."""
    try:
        tensors, metadata = read_at(folder / "lora.safetensors")
        return policy_as_model(policy_from_lora(model, read_lora(model, tensors, metadata=metadata), anchored=False)), ""
    except ValueError as refusal:
        return model, str(refusal)


def read_here(twin: Twin, save: Callable, folder: Path, alpha: float = RANK, read: Callable = stock_loader) -> Read:
    """A LoRA of diffusers' network, saved there, read here."""
    import diffusers

    if save is as_pipeline_saves and not hasattr(getattr(diffusers, twin.pipeline), "save_lora_weights"):
        return Read(1.0, "diffusers saves none for it")
    model = comfyui_model(twin)
    weights = weights_of(model)
    wrapped = peft_network(twin, weights, alpha)
    save(twin, wrapped, folder)
    patched, refused = read(model, folder)
    if refused:
        return Read(1.0, refused)
    asked = questions(patched, twin)
    network = wrapped.base_model.model
    plain = diffusers_network(twin, weights)
    change = max(float((answer(plain, twin, each) - answer(network, twin, each)).abs().max()) for each in asked)
    return Read(largest_error(network, twin, asked) / change)
