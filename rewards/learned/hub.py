"""The transformers library: imported when a reward needs it, with a clear word when it cannot be."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.words import from_group


def transformers_class(name: str) -> Any:
    """A class of transformers by name. Raises RuntimeError saying what is wrong with the installation."""
    try:
        import transformers

        return getattr(transformers, name)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise RuntimeError(f"This reward needs '{name}' of the Python package transformers (4.57 or newer), which could "
                           f"not be imported: {error}. Repair that package in ComfyUI's own Python "
                           f"{from_group('learned-rewards', 'detectors')}.") from error


def pooled(output: Any) -> Any:
    """The projected embedding: a tensor in transformers 4, inside an output object in transformers 5."""
    return getattr(output, "pooler_output", output)


def load_folder(class_name: str, folder: Path, what: str, **settings: Any) -> Any:
    """The frozen network of a local folder (config.json and weights). Never downloads, never runs code from the folder;
    pickled weights only as plain weights. Raises ValueError where it is damaged, incomplete or of another kind."""
    auto = transformers_class(class_name)
    try:
        network, report = auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False,
                                               output_loading_info=True, **settings)
    except Exception as error:  # each reader in there has its own error
        raise ValueError(f"{folder.name} could not be loaded as {what}: {error}. The folder needs config.json and "
                         "complete weights (model.safetensors); download it again.") from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would fill these with random numbers
        raise ValueError(f"{folder.name} is not complete as {what}: {len(missing)} weights are missing, such as "
                         f"{missing[0]}.")
    return network.train(False).requires_grad_(False)


def load_words(class_name: str, folder: Path, files: str, **settings: Any) -> Any:
    """The tokenizer of a local folder. Raises ValueError that names the files it needs where it cannot be read."""
    kind = transformers_class(class_name)
    try:
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True, **settings)
        tokenizer(["a photo of a cat"])  # a vocabulary that was cut off shows only now
        return tokenizer
    except Exception as error:  # missing, damaged and foreign files each have their own error
        raise ValueError(f"the tokenizer in {folder} could not be read: {error}. It needs {files}; download them "
                         "again.") from error
