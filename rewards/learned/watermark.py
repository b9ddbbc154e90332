"""No-watermark probability, as a reward or a gate: 1 = no watermark is seen, 0 = surely one.

prithivMLmods/Watermark-Detection-SigLIP2 (SigLIP2 base at 224 pixels, Apache-2.0), or any other classifier folder with
such a class; differentiable, through classifier.py. It sees visible marks and logos, not invisible ones.
"""
from __future__ import annotations

import re
from collections.abc import Sequence

from .files import Published

FOLDER = Published("Watermark", ("*watermark*",), "Watermark-Detection-SigLIP2",
                   "config.json, preprocessor_config.json and model.safetensors of prithivMLmods/Watermark-Detection-SigLIP2",
                   "372 MB", "Apache-2.0", folder=True)
_DENIED = re.compile(r"(^|[\W_])(no|non|not|without|free|clean)([\W_]|$)|^(un|no|non|not)watermark", re.IGNORECASE)


def marked_class(labels: Sequence[str]) -> str:
    """The one class that means "has a watermark", whatever its number or spelling. Raises ValueError where none does,
    or several do."""
    found = [label for label in labels if "watermark" in label.lower() and not _DENIED.search(label)]
    if len(found) != 1:
        raise ValueError(f"model: which class of this classifier means that there is a watermark? It knows: "
                         f"{', '.join(labels[:8])}. Use Image Classifier Reward, type that class there and set it to "
                         "unwanted.")
    return found[0]
