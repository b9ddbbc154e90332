"""Weights from a file, without ever running what is in it, and into a network, without silent gaps.

safetensors is read as it is; .pt/.pth/.bin/.ckpt only as plain weights (torch's weights_only), so a pickle that
carries code is refused before anything of it runs.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

SAFE, PICKLED = (".safetensors", ".sft"), (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model", "module")  # published training checkpoints keep their weights under one of these


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU. Raises ValueError: unknown kind, damaged, or code in a pickle."""
    path = Path(path)
    if path.suffix in SAFE:
        found = _guarded(path, _read_safe)
    elif path.suffix in PICKLED:
        found = _guarded(path, _read_pickled)
    else:
        raise ValueError(f"{path.name}: model files must end in {', '.join(SAFE + PICKLED)}.")
    for name in WRAPPERS:
        if isinstance(found.get(name), Mapping):
            found = found[name]
    weights = {k.removeprefix("module."): v for k, v in found.items() if isinstance(v, Tensor)}
    if not weights:
        raise ValueError(f"{path.name} holds no weights. Download the model file again, or pick another one.")
    return weights


def _read_safe(path: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(path)


def _read_pickled(path: Path) -> dict:
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        raise ValueError(f"{path.name} holds a {type(found).__name__}, not a table of weights.")
    return dict(found)


def _guarded(path: Path, read: Callable[[Path], dict]) -> dict:
    import pickle

    size = path.stat().st_size
    try:
        return read(path)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path.name} was refused: it holds more than plain weights (code may hide in it), or it is "
                         "damaged. Nothing of it was run. Use the model's .safetensors file.") from error
    except ValueError:
        raise
    except Exception as error:  # every reader has its own error for a file that was cut off
        raise ValueError(f"{path.name} ({size:,} bytes) is damaged or incomplete: {error}. Download it again and "
                         "compare the size with the source.") from error


def fill(module: nn.Module, weights: Mapping[str, Tensor], file: str, ignore: tuple[str, ...] = ()) -> nn.Module:
    """Put weights into a module that was built on the meta device; every parameter must be there and fit.

    ignore: prefixes of weights in the file that the module does not need. Returns the module, frozen, in eval mode.
    """
    wanted = {k: v for k, v in module.state_dict().items()}
    given = {k: v for k, v in weights.items() if not k.startswith(ignore)} if ignore else dict(weights)
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    wrong = [f"{k} is {list(given[k].shape)}, not {list(v.shape)}" for k, v in wanted.items()
             if k in given and given[k].shape != v.shape]
    if missing or extra or wrong:
        problems = [f"{len(found)} {what} (such as {found[0]})" for what, found in
                    (("weights missing", missing), ("weights too many", extra), ("of another shape", wrong)) if found]
        raise ValueError(f"{file} is not a checkpoint of this model: {'; '.join(problems)}. Pick the file that the "
                         "node's help names.")
    module.load_state_dict(given, strict=True, assign=True)
    _materialise(module)
    return module.train(False).requires_grad_(False)


def _materialise(module: nn.Module) -> None:
    """Buffers that no file stores stay on the meta device: position numbers are counted out, others are a mistake."""
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:
            owner, _, last = name.rpartition(".")
            if last != "position_ids":
                raise RuntimeError(f"the network's buffer {name} has no value; this transformers release is unknown.")
            module.get_submodule(owner)._buffers[last] = torch.arange(buffer.shape[-1]).expand(buffer.shape)


def with_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose name starts with prefix, without it."""
    return {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)}


def renamed(weights: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    """Every rule "old part -> new part" applied to every name, in order."""
    result = {}
    for name, value in weights.items():
        for old, new in rules.items():
            name = name.replace(old, new)
        result[name] = value
    return result


def folded_linear(weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A chain of linear layers without activations as one: weights "<anything>.<number>.weight/bias" (or a single
    "weight"/"bias") -> (weight [out, in], bias [out]), float32, multiplied in float64.
    """
    def order(name: str) -> int:
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        return numbers[-1] if numbers else 0

    weight = bias = None
    for name in sorted((k for k in weights if k.endswith("weight")), key=order):
        w, b = weights[name].double(), weights[name.removesuffix("weight") + "bias"].double()
        if weight is not None and w.shape[1] != weight.shape[0]:
            raise ValueError(f"layer {name} takes {w.shape[1]} numbers, but the layer before gives {weight.shape[0]}.")
        weight, bias = (w, b) if weight is None else (w @ weight, w @ bias + b)
    if weight is None:
        raise ValueError("the file holds no linear layer.")
    return weight.float(), bias.float()
