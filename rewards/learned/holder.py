"""Reward networks under ComfyUI's memory manager, and the model folders they are found in.

The only file of the rewards that knows ComfyUI. A network is loaded at its first use, sits in a ModelPatcher so that
the host may move it out when it needs the memory, and is shared by all rewards that name the same file.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..base.reward import Reward, networks_of
from .files import Published, choices, locate

KEY, LANGUAGE = "reward_models", "LLM"
PRECISIONS = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
OUT_OF_MEMORY = "Out of memory, although all that could be moved out was."
_shared: weakref.WeakValueDictionary[tuple, Holder] = weakref.WeakValueDictionary()


@contextmanager
def in_words() -> Iterator[None]:
    """Inside, a device that runs out of memory says what to do about it; the error stays of the host's own kind, after which the
    host unloads everything."""
    import comfy.model_management as management

    try:
        yield
    except management.OOM_EXCEPTION as error:
        if OUT_OF_MEMORY in str(error):
            raise
        raise management.OOM_EXCEPTION(f"{OUT_OF_MEMORY} Lower the batch size or the image size, switch on low memory, or use a "
                                       "smaller model; nothing that was learned before this step is lost. The device said: "
                                       f"{error}") from None


def load_models(patchers: Sequence, **options) -> None:
    """The host's load_models_gpu, all or nothing: where memory runs out in the middle of a model, the host knows nothing of the
    part that it had moved, and would leave it on the device."""
    import comfy.model_management as management

    try:
        management.load_models_gpu(list(patchers), **options)
    except management.OOM_EXCEPTION:
        for patcher in patchers:
            if not any(loaded.model is patcher for loaded in management.current_loaded_models):
                patcher.detach()
        raise


class Box(nn.Module):
    """ModelPatcher writes attributes of its own (device, ...) on the module, which transformers' classes refuse."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


class Holder:
    """A frozen network that ComfyUI may load, move and unload.

    build: makes the network on the CPU, frozen and in eval mode; called once, at the first use.
    precision: a key of PRECISIONS; auto = fp16 where the device is fast at it, else bf16, else fp32.
    """

    def __init__(self, build: Callable[[], nn.Module], precision: str = "auto"):
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, got '{precision}'.")
        self._build, self._precision, self._patcher, self._held = build, precision, None, 0

    @contextmanager
    def use(self) -> Iterator[tuple[nn.Module, torch.device, torch.dtype]]:
        """The network, loaded, with its device and type. Gradients towards the input work if the caller asked for them:
        ComfyUI runs nodes in inference mode, whose tensors autograd refuses, so that is left here.
        """
        gradients = torch.is_grad_enabled()  # leaving inference mode would switch them on unasked
        with in_words(), torch.inference_mode(False), torch.set_grad_enabled(gradients):
            patcher = self._loaded()
            if not (self._held and patcher.loaded_size() >= patcher.model_size()):
                load_models([patcher], force_full_load=True)
            leave_inference(patcher.model)
            yield patcher.model.network, patcher.load_device, self.dtype(patcher.load_device)

    def dtype(self, device: torch.device) -> torch.dtype:
        """The type that the network's weights have on this device."""
        import comfy.model_management as management

        wanted = PRECISIONS[self._precision]
        if wanted is not None:
            return wanted
        if management.should_use_fp16(device):
            return torch.float16
        return torch.bfloat16 if management.should_use_bf16(device) else torch.float32

    def unload(self) -> None:
        """Moves the network out of the device's memory; the next use brings it back."""
        import comfy.model_management as management

        if self._patcher is not None:
            management.free_memory(float("inf"), self._patcher.load_device,
                                   [m for m in management.current_loaded_models if m.model is not self._patcher])

    def _loaded(self):
        if self._patcher is None:
            import comfy.model_management as management
            import comfy.model_patcher

            device = _computing_device()
            network = Box(in_precision(self._build(), self.dtype(device)))
            self._patcher = comfy.model_patcher.ModelPatcher(network, load_device=device,
                                                             offload_device=management.text_encoder_offload_device())
        return self._patcher


def _computing_device() -> torch.device:
    """Where reward networks compute: the card, or the CPU where the host was told to keep nothing on the card. It does that by
    uploading each layer as it is asked, which only layers of its own kind can do."""
    import comfy.model_management as management

    return torch.device("cpu") if management.vram_state == management.VRAMState.NO_VRAM else management.get_torch_device()


@contextmanager
def held_together(reward: Reward) -> Iterator[list]:
    """The ModelPatchers of every network behind a reward, for a caller that loads them with its own in one go.

    Inside, a network that is whole in memory is used as it is: asking the memory manager again could move out what a
    backward pass still needs.
    """
    holders = networks_of(reward)
    with torch.inference_mode(False):
        patchers = [holder._loaded() for holder in holders]
    for holder in holders:
        holder._held += 1
    try:
        yield patchers
    finally:
        for holder in holders:
            holder._held -= 1


def shared(path: Path, kind: str, build: Callable[[], nn.Module], precision: str) -> Holder:
    """One Holder per file, kind and precision for as long as some reward uses it. A changed file is read anew."""
    key = (str(path), path.stat().st_mtime_ns, kind, precision)
    holder = _shared.get(key)
    if holder is None:
        holder = _shared[key] = Holder(build, precision)
    return holder


def in_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network in another type; single numbers, such as CLIP's logit scale, stay exact in float32."""
    numbers = {name: p.detach().float().clone() for name, p in network.named_parameters() if p.ndim == 0}
    network.to(dtype)
    for name, value in numbers.items():
        network.get_parameter(name).data = value
    return network


def leave_inference(network: nn.Module) -> None:
    """Weights that ComfyUI moved in inference mode cannot be part of a gradient: alias their memory, no copy."""
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for name, value in table.items():
                if value is not None and value.is_inference():
                    plain = torch.empty(0, dtype=value.dtype, device=value.device).set_(
                        value.untyped_storage(), value.storage_offset(), value.shape, value.stride())
                    table[name] = nn.Parameter(plain, requires_grad=False) if table is module._parameters else plain


def in_batches(images: Tensor, prompts: Sequence, size: int,
               answer: Callable[[Tensor, Sequence], Tensor]) -> Tensor:
    """answer(images, prompts) in pieces of `size`, put together on the CPU; Cancel works between the pieces."""
    found = []
    for start in range(0, images.shape[0], size):
        cancel_point()
        found.append(answer(images[start:start + size], prompts[start:start + size]).cpu())
    return torch.cat(found)


def cancel_point() -> None:
    """Raises ComfyUI's own interruption if the user has pressed Cancel."""
    import comfy.model_management as management

    management.throw_exception_if_processing_interrupted()


def model_folders() -> dict[str, list[str]]:
    """Model folder key -> folders. Adds models/reward_models to ComfyUI's keys, beside what the user's
    extra_model_paths.yaml names, and models/LLM, a key that not every ComfyUI has."""
    import folder_paths

    own = str(Path(folder_paths.models_dir) / KEY)
    if own not in folder_paths.folder_names_and_paths.get(KEY, ((),))[0]:
        folder_paths.add_model_folder_path(KEY, own)
    found = {key: list(entry[0]) for key, entry in folder_paths.folder_names_and_paths.items()}
    found.setdefault(LANGUAGE, [str(Path(folder_paths.models_dir) / LANGUAGE)])
    return found


def find_model(published: Published, choice: str) -> Path:
    """Where the file or folder of a menu entry is; a missing one is explained in one message."""
    return locate(published, choice, model_folders())


def menu(*folders: str, folder: bool = False) -> list[str]:
    """Entries for a node's menu: "auto" and what is in these model folders. Never empty, never an error."""
    return choices(folders or (KEY,), folder, model_folders())


def clip_tokenizer_folder() -> Path:
    """ComfyUI ships the vocabulary that every CLIP text tower uses."""
    import comfy

    return Path(comfy.__path__[0]) / "sd1_tokenizer"
