"""Prompts that carry pictures, encoded by the host's own nodes for models that edit; none of their keys is known here.

Whatever such a node writes into a conditioning (reference latents, a picture beside the noise, what a text encoder has seen)
reaches the network as it would from a KSampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import comfy.utils
import torch

MULTIPLE = 8  # pixels: the sides of a latent's cell in nearly every VAE


def _result(node, **inputs):
    """What a node of the host answers, by the older or the newer way of writing one."""
    answer = getattr(node(), node.FUNCTION)(**inputs)
    return answer if isinstance(answer, tuple) else answer.result


def _encoded(clip, text: str) -> list:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _reference(clip, vae, text: str, picture: torch.Tensor) -> list:
    from comfy_extras.nodes_edit_model import ReferenceLatent

    return _result(ReferenceLatent, conditioning=_encoded(clip, text), latent={"samples": vae.encode(picture)})[0]


def _qwen(clip, vae, text: str, picture: torch.Tensor) -> list:
    from comfy_extras.nodes_qwen import TextEncodeQwenImageEdit

    return _result(TextEncodeQwenImageEdit, clip=clip, prompt=text, vae=vae, image=picture)[0]


def _qwen_plus(clip, vae, text: str, picture: torch.Tensor) -> list:
    from comfy_extras.nodes_qwen import TextEncodeQwenImageEditPlus

    return _result(TextEncodeQwenImageEditPlus, clip=clip, prompt=text, vae=vae, image1=picture)[0]


def _beside_the_noise(clip, vae, text: str, picture: torch.Tensor) -> list:
    from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

    return _result(InstructPixToPixConditioning, positive=_encoded(clip, text), negative=[], pixels=picture, vae=vae)[0]


WAYS: dict[str, Callable[..., list]] = {
    "reference latent (Flux Kontext, OmniGen2 ...)": _reference,
    "Qwen-Image-Edit": _qwen,
    "Qwen-Image-Edit 2509 and later": _qwen_plus,
    "beside the noise (InstructPix2Pix, Flux Canny ...)": _beside_the_noise,
}


def encode_edit(way: str, clip, vae, text: str, picture: torch.Tensor) -> list:
    """The CONDITIONING of a text about a picture [H, W, 3]. ValueError where this ComfyUI has no node for it."""
    try:
        return WAYS[way](clip, vae, text, picture[None])
    except ImportError as error:
        raise ValueError(f"picture_as: this ComfyUI has no node for '{way}'; update it, or choose another") from error


def of_size(picture: torch.Tensor, megapixels: float) -> torch.Tensor:
    """[H, W, 3] made smaller where it has more than so many millions of pixels, its sides multiples of what VAEs take. 0: only
    that."""
    height, width = picture.shape[:2]
    shrink = min(1.0, math.sqrt(megapixels * 1e6 / (height * width))) if megapixels else 1.0
    sides = [max(MULTIPLE, round(side * shrink / MULTIPLE) * MULTIPLE) for side in (height, width)]
    if sides == [height, width]:
        return picture
    return comfy.utils.common_upscale(picture[None].movedim(-1, 1), sides[1], sides[0], "area", "center")[0].movedim(0, -1)
