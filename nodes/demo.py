"""The demo world: tiny models, prompts and a verifier, everything a first training run needs."""
from __future__ import annotations

from pathlib import Path

from ..toy.prompts import prompt_set
from ..toy.verifier import ToyVerifier
from .sockets import MENU, PROMPTS, REWARD

MODELS = {"flow (tiny SD3)": "flow", "eps (tiny SD1.5)": "eps"}
SCORES = {"mixed (half strict, half partial credit)": "mixed", "strict (all or nothing)": "strict",
          "dense (partial credit)": "dense", "number (how many balls)": "number", "colours (which ones)": "colours"}
EDIT_SCORES = list(SCORES)[:3]
LAYOUTS = {"pairs (win, lose)": "pairs", "thumbs (like, dislike)": "thumbs"}


class PTDemoWorld:
    DESCRIPTION = ("Tiny models that draw coloured balls on 24x24 pixels, prompts for them, and an exact checker. The "
                   "models learned from partly wrong captions and often draw the wrong thing: training puts that right "
                   "within minutes, even on a CPU. Use 24x24 pixels in every node that asks for a size.")
    CATEGORY = f"{MENU}/Demo"
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE", PROMPTS, PROMPTS, REWARD)
    RETURN_NAMES = ("model", "clip", "vae", "training prompts", "held-out prompts", "checker")
    OUTPUT_TOOLTIPS = (
        "The tiny diffusion model, an ordinary MODEL for any node.",
        "Its text encoder. It knows the words of the demo prompts only.",
        "Pixels to latents and back, without loss.",
        "The prompts to train on.",
        "Combinations that no model here was ever trained on: they tell learning from memorising.",
        "Reward from 0 to 1: does the picture show the colours, counts and places that the prompt says?",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "which_model": (list(MODELS), {"tooltip": "Flow matching transformer (for Flow-GRPO and other flow "
                                                      "trainers), or noise-predicting UNet (for DDPO and DPO)."}),
            "score": (list(SCORES), {"tooltip": "Strict gives 1 only to a picture that is right in everything. Partial "
                                                "credit tells near misses from failures, mixed is the mean of both. Number "
                                                "and colours look at one skill alone."}),
        }}

    def load(self, which_model: str, score: str):
        from ..toy import models

        return (models.load_model(MODELS[which_model]), models.load_clip(), models.load_vae(),
                prompt_set(held_out=False), prompt_set(held_out=True), ToyVerifier(SCORES[score]))


class PTDemoEdits:
    DESCRIPTION = ("A tiny model that edits: it is shown a picture of coloured balls and told \"paint the red ball blue\". With "
                   "prompts that carry their pictures, and an exact checker that looks at both. The model learned from partly "
                   "wrong examples and often paints the wrong thing. Use 24x24 pixels in every node that asks for a size.")
    CATEGORY, FUNCTION = f"{MENU}/Demo", "load"
    RETURN_TYPES, RETURN_NAMES = PTDemoWorld.RETURN_TYPES, PTDemoWorld.RETURN_NAMES
    OUTPUT_TOOLTIPS = (
        "The tiny model, an ordinary MODEL for any node. It takes pictures beside the noise, as InstructPix2Pix does.",
        "Its text encoder. It knows the words of the demo prompts only.",
        "Pixels to latents and back, without loss.",
        "72 edits to train on, for Encode Edits.",
        "36 edits of other pictures, by the same instructions.",
        "Reward from 0 to 1: was the one ball painted, and is everything else as it was in the prompt's picture?",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"score": (EDIT_SCORES, {"tooltip": "Strict gives 1 only to a picture that is right in "
                                                           "everything. Partial credit tells near misses from failures, mixed "
                                                           "is the mean of both."})}}

    def load(self, score: str):
        from ..toy import edits, models
        from ..toy.edit_verifier import EditVerifier

        return (models.load_model("edit"), models.load_clip(), models.load_vae(),
                edits.prompt_set(held_out=False), edits.prompt_set(held_out=True), EditVerifier(SCORES[score]))


class PTDemoJudge:
    DESCRIPTION = ("A small CLIP that learned from pictures which prompt of the demo world fits an image: a learned reward in "
                   "the place of the exact checker. It can be followed by its gradient, and be fooled. It also knows the words "
                   "bright and dark before a prompt.")
    CATEGORY, FUNCTION = f"{MENU}/Demo", "load"
    RETURN_TYPES, RETURN_NAMES = (REWARD,), ("reward",)
    OUTPUT_TOOLTIPS = ("How well an image fits its prompt, by this network's opinion; for any node with a reward input.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        from ..toy.judge import demo_judge
        return (demo_judge(),)


class PTDemoPictures:
    DESCRIPTION = ("Writes example pictures of the demo world into ComfyUI's input folder, once, laid out as your own "
                   "would be: right and wrong pictures of the same prompts, each with its prompt in a .txt file. For your "
                   "own pictures remove this node and name your folder in Pairs from Folder.")
    CATEGORY, FUNCTION, OUTPUT_NODE = f"{MENU}/Demo", "run", True
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("folder",)
    OUTPUT_TOOLTIPS = ("The folder, for Pairs from Folder.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "layout": (list(LAYOUTS), {"tooltip": "Pairs: folders win and lose, with pictures of the same names. Thumbs: "
                                                  "folders like and dislike, for single pictures."}),
            "count": ("INT", {"default": 156, "min": 2, "max": 5000, "tooltip": "How many right pictures, and as many wrong "
                              "ones. 156 is two of each training prompt."})}}

    @classmethod
    def IS_CHANGED(cls, layout, count):
        from ..trainers.data.folders import fingerprint
        return fingerprint(demo_folder(layout)) if isinstance(layout, str) and layout in LAYOUTS else ""

    def run(self, layout, count):
        from ..toy.pictures import write_pictures
        folder = demo_folder(layout)
        written = write_pictures(folder, LAYOUTS[layout], count)
        done = f"Wrote {written} pictures: {folder}" if written else f"The pictures are there already: {folder}"
        return {"ui": {"text": [done]}, "result": (str(folder),)}


def demo_folder(layout: str) -> Path:
    import folder_paths
    return Path(folder_paths.get_input_directory()) / "posttrain_demo" / LAYOUTS[layout]


NODES = {"PTDemoWorld": PTDemoWorld, "PTDemoEdits": PTDemoEdits, "PTDemoJudge": PTDemoJudge, "PTDemoPictures": PTDemoPictures}
NAMES = {"PTDemoWorld": "Demo World (tiny models)", "PTDemoEdits": "Demo Edits (a tiny model that edits)",
         "PTDemoJudge": "Demo Judge (tiny CLIP)",
         "PTDemoPictures": "Demo Pictures (examples on disk)"}
