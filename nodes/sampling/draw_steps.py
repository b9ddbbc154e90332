"""What Rollout on Other Computers has another ComfyUI run that has this pack: some images with their random steps."""

from __future__ import annotations

import os
from functools import partial

from ..access import located
from ..prompts import encoding
from ..sockets import MENU

FOLDER = "posttrain_latents"  # in the output folder, as for the latents of a KSampler


class PTDrawSteps:
    DESCRIPTION = "Internal to Rollout on Other Computers; it is never placed by hand."
    CATEGORY, FUNCTION, OUTPUT_NODE, DEPRECATED, DEV_ONLY = f"{MENU}/internal", "run", True, True, True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "As it is where the policy is trained."}),
                "clip": ("CLIP", {"tooltip": "As it is where the policy is trained."}),
                "weights": ("STRING", {"tooltip": "The policy's, a file of the input folder."}),
                "negative": ("STRING", {"tooltip": "The negative prompt.", "multiline": True}),
                "distilled_guidance": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1000.0, "tooltip": "0: none."}),
                "job": ("STRING", {"tooltip": "Which images, and how.", "multiline": True}),
                "prefix": ("STRING", {"tooltip": "Of the file that they are saved in."}),
            }
        }

    def run(self, model, clip, weights, negative, distilled_guidance, job, prefix):
        import folder_paths
        import safetensors.torch

        from ...trainers.servers.steps import drawn_steps, received_policy

        policy = received_policy(model, located(weights, "weights"))
        found = drawn_steps(policy, negative, job, partial(encoding, clip, distilled_guidance))
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            f"{FOLDER}/{prefix}", folder_paths.get_output_directory()
        )
        file = f"{name}_{counter:05}_.latent"
        safetensors.torch.save_file({key: value.contiguous() for key, value in found.items()}, os.path.join(folder, file))
        return {"ui": {"latents": [{"filename": file, "subfolder": subfolder, "type": "output"}]}}


NODES = {"PTDrawSteps": PTDrawSteps}
NAMES = {"PTDrawSteps": "Draw Steps (internal)"}
