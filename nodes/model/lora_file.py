"""LoRA files of models/loras, as something to begin from: which there are, what one holds, and what it is known by."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from ...rewards.base.words import shown

NONE = "none"
READ = (".safetensors", ".sft")


def lora_menu() -> list[str]:
    import folder_paths

    return [NONE, *folder_paths.get_filename_list("loras")]


def located_lora(name: str) -> Path:
    """ValueError where there is no such file, or one of a kind that could run code when it is read."""
    import folder_paths

    if not isinstance(name, str) or name not in folder_paths.get_filename_list("loras"):
        raise ValueError(f"lora: {shown(name)} is not in models/loras; choose one from the menu, or put the file there")
    path = Path(folder_paths.get_full_path("loras", name) or "")
    if path.suffix.lower() not in READ:
        raise ValueError(
            f"lora: {shown(name)} is a {path.suffix} file, which can run a program of its own when it is opened, so "
            "it is not read; take the LoRA as .safetensors, or convert it with a tool that you trust"
        )
    if not path.is_file():
        raise ValueError(f"lora: {shown(name)} is not there any more; choose another, or put it back")
    return path


def read_lora_file(name: str) -> tuple[dict, dict[str, str]]:
    """The tensors and the metadata. ValueError where it cannot be read."""
    import safetensors

    path = located_lora(name)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}, dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"lora: {shown(name)} cannot be read ({error}); it may be damaged: copy or download it again"
        ) from None


def digest_of(name) -> str:
    """What a run knows the file by: its content, wherever it lies and whatever it is called. The name where there is none."""
    try:
        path = located_lora(name)
        state = path.stat()
        return _digest(path, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError):
        return str(name)


@lru_cache(maxsize=32)
def _digest(path: Path, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
