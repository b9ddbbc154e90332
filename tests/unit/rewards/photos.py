"""Real photographs that scikit-image ships; the package itself is not imported."""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

FILES = {"cat": "chelsea.png", "espresso": "coffee.png", "rocket": "rocket.jpg", "motorcycle": "motorcycle_left.png",
         "person": "astronaut.png"}


def photo(name: str, size: int | None = None) -> torch.Tensor:
    """[1,H,W,3] in [0, 1]; with size: the middle square, resized."""
    from PIL import Image

    spec = find_spec("skimage")
    assert spec is not None and spec.origin, "scikit-image, pinned in the test requirements, is not installed"
    image = Image.open(Path(spec.origin).parent / "data" / FILES[name]).convert("RGB")
    if size:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).copy())[None] / 255


def photos(*names: str, size: int = 256) -> torch.Tensor:
    return torch.cat([photo(n, size) for n in names])
