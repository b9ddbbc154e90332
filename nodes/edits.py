"""Prompts that carry pictures: what a model that edits is told to change, and how."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from .access import located, may_read, state_of
from .prompts import AT_ONCE, CATEGORY, encode_now, finished, one_reading
from .sockets import PROMPTS


class PTEdits:
    DESCRIPTION = (
        "Pictures with words that say how to change them, for models that edit (Flux Kontext, Qwen-Image-Edit, "
        "InstructPix2Pix). A folder of pictures, each with a .txt file of the same name and one instruction on each line; "
        "or a table (.csv, .tsv, .jsonl) with the columns source and instruction."
    )
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (PROMPTS,), ("prompts",)
    OUTPUT_TOOLTIPS = ("Prompts with their pictures; connect them to Encode Edits.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "folder_or_table": ("STRING", {"default": "my_edits", "tooltip": "A folder or a table in ComfyUI's input folder, "
                                     "or a full path into a folder that you have opened (docs/security.md)."}),
                "limit": ("INT", {"default": 10_000, "min": 1, "max": 1_000_000, "tooltip": "Read at most this many edits."}),
            }
        }  # fmt: skip

    @classmethod
    def IS_CHANGED(cls, folder_or_table, limit):
        from ..trainers.data.folders import fingerprint

        state = state_of(folder_or_table, lambda path: fingerprint(path if path.is_dir() else path.parent))
        return state if isinstance(state, float) else f"{state}:{limit}"

    def run(self, folder_or_table, limit):
        from ..trainers.data.edits import read_edits

        prompts, report = read_edits(located(folder_or_table, "folder_or_table"), limit, may_read)
        return {"ui": {"text": [report]}, "result": (prompts,)}


class PTEncodeEdits:
    DESCRIPTION = (
        "Encodes prompts that carry pictures, with your text encoder and VAE and by ComfyUI's own nodes for models that edit. "
        "The negative prompt gets the picture, too. Encodings lie on the disk. Use it outside the loop."
    )
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (PROMPTS,), ("prompts",)
    OUTPUT_TOOLTIPS = ("The prompts with their encodings and pictures, for Rollout and Train.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ..trainers.policy.edits import WAYS

        return {
            "required": {
                "prompts": (PROMPTS, {"tooltip": "From Edits or Demo Edits."}),
                "clip": ("CLIP", {"tooltip": "The text encoder of the model that you train."}),
                "vae": ("VAE", {"tooltip": "Its VAE: the pictures become latents that the model is shown."}),
                "picture_as": (list(WAYS), {"tooltip": "How the model takes a picture. The first is ComfyUI's ReferenceLatent, "
                               "the next two TextEncodeQwenImageEdit (and Plus), the last InstructPixToPixConditioning. Choose "
                               "what the model's own workflow uses; another one is taken without effect, or by chance."}),
                "megapixels": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 16.0, "step": 0.05, "tooltip": "Larger pictures are "
                               "made smaller, to about so many millions of pixels. 0: as they are."}),
                "negative": ("STRING", {"multiline": True, "default": "", "tooltip": "The negative prompt. Used only where the "
                             "guidance scale is not 1."}),
            },
            "optional": {
                "distilled_guidance": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "Only for "
                                       "models with guidance built in, such as Flux Kontext dev (2.5 is usual). 0: none."}),
            },
        }  # fmt: skip

    def run(self, prompts, clip, vae, picture_as, megapixels, negative, distilled_guidance=0.0):
        negative = one_reading(negative, "negative")
        return (encode_edits(prompts, clip, vae, picture_as, megapixels, negative, distilled_guidance),)


def encode_edits(prompts, clip, vae, way: str, megapixels: float, negative: str, guidance: float = 0.0):
    """The same prompts with a CONDITIONING each and, with the same picture, one for the negative prompt."""
    from ..trainers.policy.encodings import Encodings

    if lacking := [prompt.text for prompt in prompts.prompts if prompt.source is None]:
        raise ValueError(f"prompts: '{lacking[0]}' carries no picture; encode prompts without pictures with Encode Prompts")
    encode = partial(encoding, clip, vae, way, megapixels, guidance)
    known = {prompt.key: prompt for prompt in prompts.prompts}
    sources = {prompt.source.key: prompt.source for prompt in prompts.prompts}
    positive = Encodings([prompt.key for prompt in prompts.prompts], lambda key: encode(known[key].text, known[key].source))
    negatives = Encodings([prompt.source.key for prompt in prompts.prompts], lambda key: encode(negative, sources[key]))
    if len(prompts) <= AT_ONCE:
        encode_now(positive, negatives)
    return replace(prompts, positive=positive, negatives=negatives)


@torch.inference_mode()  # as the host runs a node: what it loads is made so
def encoding(clip, vae, way: str, megapixels: float, guidance: float, text: str, source) -> list:
    """The CONDITIONING of a text about a picture, in RAM."""
    import comfy.model_management

    from ..trainers.policy.edits import encode_edit, of_size

    comfy.model_management.throw_exception_if_processing_interrupted()
    return finished(encode_edit(way, clip, vae, text, of_size(source.read(), megapixels)), guidance)


NODES = {"PTEdits": PTEdits, "PTEncodeEdits": PTEncodeEdits}
NAMES = {"PTEdits": "Edits (pictures with instructions)", "PTEncodeEdits": "Encode Edits"}
