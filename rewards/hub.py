"""The transformers library: imported when a reward needs it, with a clear word when it cannot be."""
from __future__ import annotations

from typing import Any


def transformers_class(name: str) -> Any:
    """A class of transformers by name. Raises RuntimeError saying what is wrong with the installation."""
    try:
        import transformers

        return getattr(transformers, name)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise RuntimeError(f"This reward needs '{name}' of the Python package transformers (4.57 or newer), which could "
                           f"not be imported: {error}. Repair that package in ComfyUI's own Python.") from error


def pooled(output: Any) -> Any:
    """The projected embedding: a tensor in transformers 4, inside an output object in transformers 5."""
    return getattr(output, "pooler_output", output)
