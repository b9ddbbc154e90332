"""Small models as quantised files in the formats that people have: an SD3 in all of them, loaded by the host's own loader as a
node would, and a Flux, which overwrites its activations, where the weights are of a class of their own."""
from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import comfy.model_detection
import comfy.model_patcher
import comfy.ops
import comfy.sd
import pytest
import safetensors.torch
import torch
from small_models import BUILD, CPU, OWN_TEXT, SIZE, conditioning, small_flux, small_model

try:
    import comfy.quant_ops as quant_ops
except ImportError:  # hosts before it know fp8_scaled alone
    quant_ops = None

LAYOUTS = {"float8_e4m3fn": "TensorCoreFP8E4M3Layout", "int8_tensorwise": "TensorWiseINT8Layout",
           "nvfp4": "TensorCoreNVFP4Layout", "mxfp8": "TensorCoreMXFP8Layout"}
KNOWN = LAYOUTS if quant_ops and hasattr(comfy.ops, "QuantLinearFunc") else ()
PER_LAYER = tuple(name for name in KNOWN if name in quant_ops.QUANT_ALGOS)
FORMATS = ("fp8_scaled", "fp8_fast", *(["fp8_mixed"] if quant_ops else []), *PER_LAYER, "packed", "packed flux")
GGUF = ("Q8_0", "Q4_0", "Q8_0 flux", "Q4_0 flux")
FLUX = "flux of a file"  # one head of the width that every published Flux has, and that the host goes by
BUILD[FLUX] = lambda: small_flux(hidden_size=128, num_heads=1, mlp_ratio=4.0, axes_dim=[16, 56, 56], depth=1,
                                 depth_single_blocks=1)
SIZE[FLUX], OWN_TEXT[FLUX] = SIZE["flux"], lambda seed, tokens: conditioning("flux", seed, tokens)


def kind_in(format: str) -> str:
    return FLUX if format.endswith(" flux") else "sd3"


def kind_of(model) -> str:
    return FLUX if type(model.model.model_config).__name__ == "Flux" else "sd3"


def dense_weights(kind: str = "sd3") -> dict[str, torch.Tensor]:
    state = {k: v.clone().contiguous() for k, v in small_model(kind).model.diffusion_model.state_dict().items()}
    if kind == FLUX:
        return state
    return state | {"pos_embed": torch.zeros(1, 256, state["x_embedder.proj.bias"].shape[0])}


def is_quantised(key: str, value: torch.Tensor) -> bool:
    return value.ndim == 2 and key.endswith("weight") and "blocks" in key


def model_in(format: str, folder: Path):
    """Of any format: one of FORMATS, or "gguf " and one of GGUF, which the test is skipped without the pack for."""
    if not format.startswith("gguf"):
        return quantised_model(format, folder)
    if (root := gguf_pack()) is None:
        pytest.skip("the GGUF pack is not here: give a folder with ComfyUI-GGUF in it as POSTTRAIN_PACKS")
    return gguf_model(root, format.split()[1], folder, kind_in(format))


def quantised_model(format: str, folder: Path):
    """The MODEL as Load Diffusion Model gives it, made in inference mode."""
    if format.startswith("packed"):
        return loaded(dense_weights(kind_in(format)), PackedOps)
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
    """A weight as bytes, two rows in one: what it stands for only its layer knows, and no copy of it is ever made. It says
    that it has the shape of what it stands for."""

    def detach(self):
        return self

    def clone(self):
        return self

    @property
    def shape(self):
        return self.stands_for


def packed_as(values: torch.Tensor, shape: torch.Size) -> torch.nn.Parameter:
    packed = values.as_subclass(Packed)
    packed.stands_for = shape
    return torch.nn.Parameter(packed, requires_grad=False)


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
            self.weight = packed_as(packed, weight.shape)
            if f"{prefix}bias" in state:
                self.bias = packed_as(state[f"{prefix}bias"], state[f"{prefix}bias"].shape)

        def forward_comfy_cast_weights(self, x):
            # as the GGUF pack does: where torch.Tensor() answers the class that was to be left, its shape is a wrong one
            rows = torch.Tensor(self.weight)
            rows = rows.view(torch.int8).reshape(2 * rows.shape[0], rows.shape[1] // 2)
            bias = None if self.bias is None else self.bias.as_subclass(torch.Tensor).to(x.dtype)
            return torch.nn.functional.linear(x, rows.to(x.dtype) * self.scale, bias)


def loaded(weights: dict[str, torch.Tensor], operations):
    """The MODEL by the host's own loader, with a pack's layers. Older hosts take every Flux for one of 24 heads; there it is
    built as the loader does."""
    found = comfy.model_detection.model_config_from_unet(weights, "").unet_config
    with torch.inference_mode():
        if found.get("num_heads") != 24:
            return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"custom_operations": operations})
        config = BUILD[FLUX]()
        config.set_inference_dtype(torch.float32, None)
        config.custom_operations = operations
        model = config.get_model(weights, "").to(CPU)
        model.load_model_weights(weights, "")
        return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


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


def gguf_model(root: Path, quantisation: str, folder: Path, kind: str = "sd3"):
    """By the pack's node; see ``loaded`` for a Flux on older hosts."""
    import folder_paths

    pack, path = _gguf_pack_of(root), folder / f"{kind} {quantisation}.gguf"
    _write_gguf(path, dense_weights(kind), quantisation, kind.split()[0])
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    with torch.inference_mode():
        if comfy.model_detection.model_config_from_unet(dense_weights(kind), "").unet_config.get("num_heads") != 24:
            return pack.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]().load_unet(path.name)[0]
        state = pack.nodes.gguf_sd_loader(str(path))
        return pack.nodes.GGUFModelPatcher.clone(loaded(state, pack.nodes.GGMLOps()))


def _write_gguf(path: Path, weights: dict[str, torch.Tensor], quantisation: str, architecture: str) -> None:
    import gguf

    kind = getattr(gguf.GGMLQuantizationType, quantisation)
    writer = gguf.GGUFWriter(str(path), arch=architecture)
    for key, value in weights.items():
        if is_quantised(key, value):
            writer.add_tensor(key, gguf.quants.quantize(value.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, value.numpy(), raw_dtype=gguf.GGMLQuantizationType.F32)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()


def _gguf_pack_of(root: Path):
    if "ggufpack" not in sys.modules:
        spec = importlib.util.spec_from_file_location("ggufpack", root / "__init__.py", submodule_search_locations=[str(root)])
        sys.modules["ggufpack"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["ggufpack"])
    return sys.modules["ggufpack"]


def dense_twin(model):
    """A plain float32 MODEL whose weights are what the quantised one's stand for, asked of each layer by unit inputs."""
    twin = small_model(kind_of(model))
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
