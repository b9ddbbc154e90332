"""LoRA files of models/loras, as something to begin from: which there are, what one holds, and what it is known by."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from ...rewards.base.words import shown

NONE = "none"
READ = (".safetensors", ".sft")
PEFTS, SETTINGS = "adapter_model", "adapter_config.json"  # a file of peft's keeps its strength beside it
LARGEST = 1 << 20  # bytes of settings; real ones have some thousands


def lora_menu() -> list[str]:
    import folder_paths

    return [NONE, *folder_paths.get_filename_list("loras")]


def state_of_choice(name: str) -> str:
    """For IS_CHANGED of a node with this menu: what was chosen, by its content."""
    return NONE if name == NONE else digest_of(name)


def choice_is_valid(name: str | None) -> bool | str:
    """For VALIDATE_INPUTS, before a training: True, or what is wrong. None: a wired name, which is not known yet."""
    try:
        return name in (None, NONE) or bool(located_lora(name))
    except ValueError as error:
        return str(error)


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
    """The tensors and the metadata, with peft's settings that lie beside it. ValueError where it cannot be read."""
    return read_at(located_lora(name))


def read_at(path: Path) -> tuple[dict, dict[str, str]]:
    import safetensors

    settings = _settings_beside(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors, metadata = {key: file.get_tensor(key) for key in list(file.keys())}, dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"lora: {shown(path.name)} cannot be read ({error}); it may be damaged: copy or download it again"
        ) from None
    return tensors, metadata if settings is None else _with_settings(metadata, settings)


def _with_settings(metadata: dict[str, str], settings: dict) -> dict[str, str]:
    from ...trainers.policy.lora_names import with_peft_settings

    return with_peft_settings(metadata, settings)


def _settings_path(path: Path) -> Path | None:
    """Where peft keeps what belongs to this file: beside the one that has peft's name, or that is alone in its folder."""
    beside = path.with_name(SETTINGS)
    if not beside.is_file():
        return None
    alone = all(other == path for other in path.parent.iterdir() if other.suffix.lower() in READ)
    return beside if path.stem == PEFTS or alone else None


def _settings_beside(path: Path) -> dict | None:
    beside = _settings_path(path)
    if beside is None:
        return None
    try:
        if beside.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        settings = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("no settings by name")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"lora: {SETTINGS} beside {shown(path.name)}, which says how strong it is, cannot be read ({error}); copy it "
            "again from where the LoRA is from"
        ) from None
    return settings


def digest_of(name) -> str:
    """What a run knows the file by: its content, wherever it lies and whatever it is called. The name where there is none."""
    try:
        path = located_lora(name)
        beside = _settings_path(path)
        found = [_digest(each, each.stat().st_mtime_ns, each.stat().st_size) for each in (path, beside) if each is not None]
        return "+".join(found)
    except (OSError, ValueError):
        return str(name)


@lru_cache(maxsize=32)
def _digest(path: Path, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
