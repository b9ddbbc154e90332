"""The small SD3 as quantised files in the formats that people have, loaded by the host's own loader as a node would."""
from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import comfy.ops
import comfy.sd
import safetensors.torch
import torch
from small_models import small_model

try:
    import comfy.quant_ops as quant_ops
except ImportError:  # hosts before it know fp8_scaled alone
    quant_ops = None

LAYOUTS = {"float8_e4m3fn": "TensorCoreFP8E4M3Layout", "int8_tensorwise": "TensorWiseINT8Layout",
           "nvfp4": "TensorCoreNVFP4Layout", "mxfp8": "TensorCoreMXFP8Layout"}
KNOWN = LAYOUTS if quant_ops and hasattr(comfy.ops, "QuantLinearFunc") else ()
PER_LAYER = tuple(name for name in KNOWN if name in quant_ops.QUANT_ALGOS)
FORMATS = ("fp8_scaled", "fp8_fast", *(["fp8_mixed"] if quant_ops else []), *PER_LAYER, "packed")
GGUF = ("Q8_0", "Q4_0")


def dense_weights(kind: str = "sd3") -> dict[str, torch.Tensor]:
    state = {k: v.clone().contiguous() for k, v in small_model(kind).model.diffusion_model.state_dict().items()}
    return state | {"pos_embed": torch.zeros(1, 256, state["x_embedder.proj.bias"].shape[0])}


def is_quantised(key: str, value: torch.Tensor) -> bool:
    return value.ndim == 2 and key.endswith("weight") and "blocks" in key


def quantised_model(format: str, folder: Path):
    """The MODEL as Load Diffusion Model gives it, made in inference mode."""
    if format == "packed":
        return packed_model()
    if format == "fp8_fast":
        return fast_model()
    path = folder / f"{format}.safetensors"
    tensors, metadata = {"fp8_scaled": _scaled, "fp8_mixed": _mixed}.get(format, lambda: _per_layer(format))()
    safetensors.torch.save_file(tensors, path, metadata)
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(path))


def _scaled():
    out = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for key, value in dense_weights().items():
        if value.ndim == 2 and key.endswith("weight"):
            out[key], out[key[:-6] + "scale_weight"] = _fp8(value)
        else:
            out[key] = value.to(torch.bfloat16)
    return out, None


def _mixed():
    out, layers = {}, {}
    for key, value in dense_weights().items():
        if is_quantised(key, value):
            out[key], out[key[:-6] + "weight_scale"] = _fp8(value)
            layers[key[:-7]] = {"format": "float8_e4m3fn"}
        else:
            out[key] = value.to(torch.bfloat16)
    return out, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def _fp8(value: torch.Tensor):
    scale = value.abs().max() / 400
    return (value / scale).to(torch.float8_e4m3fn), scale.reshape(())


def _per_layer(format: str):
    out = {}
    for key, value in dense_weights().items():
        if is_quantised(key, value):
            packed = quant_ops.QuantizedTensor.from_float(value.to(torch.bfloat16), LAYOUTS[format])
            out |= {name: part.contiguous() for name, part in packed.state_dict(key).items()}
            out[key[:-6] + "comfy_quant"] = torch.tensor(list(json.dumps({"format": format}).encode()), dtype=torch.uint8)
        else:
            out[key] = value.to(torch.bfloat16)
    return out, None


class Packed(torch.Tensor):
    """A weight as bytes, two rows in one: what it stands for only its layer knows, and no copy of it is ever made."""

    def detach(self):
        return self

    def clone(self):
        return self


class PackedOps(comfy.ops.manual_cast):
    """A pack's layers: the weight is unpacked in every forward."""

    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def _load_from_state_dict(self, state, prefix, *_):
            weight = state[f"{prefix}weight"]
            self.scale = float(weight.abs().max()) / 127
            packed = (weight / self.scale).round().to(torch.int8).view(torch.uint8).reshape(-1, 2 * weight.shape[1])
            self.weight = torch.nn.Parameter(packed.as_subclass(Packed), requires_grad=False)
            if f"{prefix}bias" in state:
                self.bias = torch.nn.Parameter(state[f"{prefix}bias"].as_subclass(Packed), requires_grad=False)

        def forward_comfy_cast_weights(self, x):
            packed = self.weight.as_subclass(torch.Tensor).view(torch.int8).reshape(self.out_features, self.in_features)
            bias = None if self.bias is None else self.bias.as_subclass(torch.Tensor).to(x.dtype)
            return torch.nn.functional.linear(x, packed.to(x.dtype) * self.scale, bias)


def packed_model():
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model_state_dict(dense_weights(), model_options={"custom_operations": PackedOps})


def fast_model():
    """Plain fp8 weights under --fast fp8_matrix_mult, where the host rounds what comes into a layer too."""
    options = {"custom_operations": comfy.ops.fp8_ops, "dtype": torch.float8_e4m3fn}
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(dense_weights(), model_options=options)
        model.set_model_compute_dtype(torch.bfloat16)
    return model


def gguf_pack() -> Path | None:
    """The GGUF pack as people have it: in the folder of packs that POSTTRAIN_PACKS names, or in packs/ of the cache."""
    folders = [os.environ.get("POSTTRAIN_PACKS"), Path(os.environ.get("POSTTRAIN_CACHE", "nowhere")) / "packs"]
    found = [Path(folder) / "ComfyUI-GGUF" for folder in folders if folder]
    return next((path for path in found if (path / "nodes.py").is_file()), None)


def gguf_model(root: Path, quantisation: str, folder: Path):
    import folder_paths
    import gguf
    kind = getattr(gguf.GGMLQuantizationType, quantisation)
    writer = gguf.GGUFWriter(str(folder / f"{quantisation}.gguf"), arch="sd3")
    for key, value in dense_weights().items():
        if is_quantised(key, value):
            writer.add_tensor(key, gguf.quants.quantize(value.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, value.numpy(), raw_dtype=gguf.GGMLQuantizationType.F32)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    with torch.inference_mode():
        return _gguf_nodes(root)["UnetLoaderGGUF"]().load_unet(f"{quantisation}.gguf")[0]


def _gguf_nodes(root: Path) -> dict:
    if "ggufpack" not in sys.modules:
        spec = importlib.util.spec_from_file_location("ggufpack", root / "__init__.py", submodule_search_locations=[str(root)])
        sys.modules["ggufpack"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["ggufpack"])
    return sys.modules["ggufpack"].NODE_CLASS_MAPPINGS


def dense_twin(model):
    """A plain float32 MODEL whose weights are what the quantised one's stand for, asked of each layer by unit inputs."""
    twin = small_model("sd3")
    layers = dict(model.model.diffusion_model.named_modules())
    plain = twin.model.diffusion_model
    source = model.model.diffusion_model
    plain.load_state_dict({k: _numbers(v) for k, v in source.named_parameters() if not _held(k, layers)}, strict=False)
    for name, buffer in source.named_buffers():
        setattr(plain.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], _numbers(buffer).clone())
    with torch.inference_mode():
        for name, layer in plain.named_modules():
            if isinstance(layer, torch.nn.Linear):
                rows = layers[name](torch.cat([torch.zeros(1, layer.in_features), torch.eye(layer.in_features)]))
                layer.weight.copy_((rows[1:] - rows[:1]).T)
                if layer.bias is not None:
                    layer.bias.copy_(rows[0])
    return twin


def _held(key: str, layers: dict) -> bool:
    return hasattr(layers[key.rpartition(".")[0]], "in_features")


def _numbers(value: torch.Tensor) -> torch.Tensor:
    return value.detach().as_subclass(torch.Tensor).float()
