"""The demo world's model from files, for a ComfyUI in which the pack itself is not installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import folder_paths

ROOT = Path(__file__).resolve().parents[3]


class LabDemoModel:
    CATEGORY, FUNCTION = "Lab", "run"
    RETURN_TYPES = ("MODEL", "CLIP")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model_name": (folder_paths.get_filename_list("diffusion_models"),)}}

    def run(self, model_name):
        if "posttrain" not in sys.modules:
            sys.modules["posttrain"] = types.ModuleType("posttrain")
            sys.modules["posttrain"].__path__ = [str(ROOT)]
        from posttrain.toy.models import load_clip, load_model

        return load_model("flow", Path(folder_paths.get_full_path_or_raise("diffusion_models", model_name))), load_clip()


DEMO = {"LabDemoModel": LabDemoModel}
