"""Offline preferences: pairs and thumbs from folders and files, encoded once and kept on the disk, dealt out to Train Step."""
from __future__ import annotations

from ..access import located, may_read, state_of
from ..edits import PTEncodeEdits, encode_edits
from ..progress import node_progress
from ..prompts import encode_prompts, one_reading
from ..sockets import ENCODED_PAIRS, MENU, PAIRS, POLICY, PREFERENCES, ROLLOUT, SEED
from ..widgets import left_open

CATEGORY = f"{MENU}/5 Feedback"


def reading_inputs() -> dict:
    return {
        "limit": ("INT", {"default": 10_000, "min": 1, "max": 10_000_000, "tooltip": "Read at most this many pairs or thumbs."}),
        "prompt": ("STRING", {"multiline": True, "default": "", "tooltip": "For images without a caption of their own. Empty: "
                   "those are left out."})}


class PTPairsFolder:
    DESCRIPTION = ("Pairs of images from a folder: win/ and lose/ with images of the same names, or 0001_w.png and "
                   "0001_l.png side by side. A folder with like/ and dislike/ gives thumbs. Captions are .txt files of "
                   "the same names. For models that edit: source/ beside these, with the pictures that the captions change.")
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (PAIRS, "STRING"), ("pairs", "summary")
    OUTPUT_TOOLTIPS = ("For Encode Pairs.", "What was found, and what was left out and why.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"folder": ("STRING", {"default": "my_pairs", "tooltip": "A folder in ComfyUI's input folder, or "
                                        "a full path to one that you have opened (docs/security.md)."}), **reading_inputs()}}

    @classmethod
    def IS_CHANGED(cls, folder, **_):
        from ...trainers.data.folders import fingerprint
        return state_of(folder, fingerprint)

    def run(self, folder, limit, prompt):
        from ...trainers.data.folders import read_folder
        return shown(read_folder(located(folder, "folder"), limit, prompt.strip()))


class PTPairsFile:
    DESCRIPTION = ("Pairs of images from a file. .jsonl: one {\"prompt\", \"chosen\", \"rejected\"} or {\"prompt\", \"image\", "
                   "\"label\"} on each line, with image files named from the file's folder, or votes: {\"prompt\", \"image\", "
                   "\"vote\"}. .parquet: as in Pick-a-Pic.")
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (PAIRS, "STRING"), ("pairs", "summary")
    OUTPUT_TOOLTIPS = ("For Encode Pairs.", "What was found, and what was left out and why.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {"default": "pairs.jsonl", "tooltip": "A file in ComfyUI's input folder, or a "
                                      "full path into a folder that you have opened (docs/security.md). Images in a .parquet "
                                      "file are copied into ComfyUI's temporary folder."}), **reading_inputs()},
            "optional": {"votes": (("thumbs", "pairs"), {"tooltip": "Only for a file of votes. thumbs: each image by its last "
                                   "vote, for KTO. pairs: every image voted up with every one of the same prompt voted down, "
                                   "for Diffusion-DPO."})}}

    @classmethod
    def IS_CHANGED(cls, file, **_):
        return state_of(file)

    def run(self, file, limit, prompt, votes="thumbs"):
        from ...trainers.data.files import read_file
        return shown(read_file(located(file), limit, prompt.strip(), votes, may_read))


def shown(data):
    return {"ui": {"text": [data.summary()]}, "result": (data, data.summary())}


class PTEncodePairs:
    DESCRIPTION = ("Encodes the images and captions of pairs (or thumbs) once with your VAE and text encoder. Use it outside "
                   "the loop. Latents are kept in half precision in ComfyUI's temporary folder.")
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (ENCODED_PAIRS, "STRING"), ("encoded pairs", "summary")
    OUTPUT_TOOLTIPS = ("For Pairs for Training.", "How much was encoded, and what was left out and why.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.data.images import SIZE_RULES
        return {"required": {
            "pairs": (PAIRS, {"tooltip": "From Pairs from Folder or Pairs from File."}),
            "policy": (POLICY, {"tooltip": "The policy to train, from Create Policy."}),
            "vae": ("VAE", {"tooltip": "The model's VAE."}),
            "clip": ("CLIP", {"tooltip": "The model's text encoder."}),
            "width": ("INT", {"default": 512, "min": 8, "max": 8192, "step": 8, "tooltip": "All images are brought to this "
                      "width. Use the size that your model is made for."}),
            "height": ("INT", {"default": 512, "min": 8, "max": 8192, "step": 8, "tooltip": "And to this height."}),
            "size_rule": (SIZE_RULES, {"tooltip": "crop to fill: scale and cut the centre out. must have this size: leave out "
                          "images of another size."})},
            "optional": {"distilled_guidance": ("FLOAT", {
                "default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "Only for models with guidance built in, "
                "such as Flux dev (3.5 is usual). 0 leaves it out."})},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, pairs, policy, vae, clip, width, height, size_rule, distilled_guidance=0.0, unique_id=None):
        if pairs.carries_pictures:
            raise ValueError("pairs: they are of edits, and this node would leave out the pictures that are changed; encode them "
                             "with Encode Edit Pairs")
        return encoded(pairs, policy, vae, (width, height, size_rule), unique_id,
                       lambda prompts: encode_prompts(prompts, clip, "", distilled_guidance))


class PTEncodeEditPairs(PTEncodePairs):
    DESCRIPTION = ("Encode Pairs for models that edit: each instruction is encoded together with the picture that it changes, as "
                   "Encode Edits does it. Use it outside the loop.")

    @classmethod
    def INPUT_TYPES(cls):
        inputs, edits = super().INPUT_TYPES(), PTEncodeEdits.INPUT_TYPES()
        own = {name: edits["required"][name] for name in ("picture_as", "megapixels", "negative")}
        return {**inputs, "required": {**inputs["required"], **own}}

    def run(self, pairs, policy, vae, clip, width, height, size_rule, picture_as, megapixels, negative,
            distilled_guidance=0.0, unique_id=None):
        if not pairs.carries_pictures:
            raise ValueError("pairs: they carry no pictures that are changed (a folder 'source' beside win and lose); encode "
                             "them with Encode Pairs")
        negative = one_reading(negative, "negative")
        return encoded(pairs, policy, vae, (width, height, size_rule), unique_id, lambda prompts: encode_edits(
            prompts, clip, vae, picture_as, megapixels, negative, distilled_guidance))


def encoded(pairs, policy, vae, frame: tuple, unique_id, encode_texts):
    """What the nodes that encode answer. frame: width, height and the rule of size."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    from ...trainers.data.encoded import encode
    from ...trainers.data.images import Frame
    from ...trainers.policy.latents import from_latent_socket

    def image(pixels):
        throw_exception_if_processing_interrupted()
        return from_latent_socket(policy.model, {"samples": vae.encode(pixels)}, "vae",
                                  "connect the VAE that belongs to the model of the policy")

    found = encode(pairs, Frame(*frame), image, encode_texts, node_progress(unique_id))
    return {"ui": {"text": [found.summary()]}, "result": (found, found.summary())}


class PTPairBatch:
    DESCRIPTION = ("Deals out some of the encoded pairs (or thumbs) in each iteration, in random order, each once before any "
                   "comes again. Takes the place of Rollout, Score and Preferences in the loop.")
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (ROLLOUT, PREFERENCES, "IMAGE"), ("rollout", "preferences", "images")
    OUTPUT_TOOLTIPS = ("For Train Step, with the preferences. A reward can score it, too.", "For Train Step.",
                       "This iteration's images: the better ones first, then the worse ones in the same order.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "pairs": (ENCODED_PAIRS, {"tooltip": "From Encode Pairs."}),
            "policy": (POLICY, {"tooltip": "From Loop Start."}),
            "iteration": ("INT", {"default": 0, "min": 0, "max": 2**31, "forceInput": True, "tooltip": "From Loop Start: "
                          "decides which pairs this time."}),
            "pairs_per_iteration": left_open(("INT", {"max": 65536, "tooltip": "Pairs (or thumbs) for each train step. More is "
                                              "steadier and slower. Published trainings take 16 to 2,048 for each update."})),
            "batch_size": ("INT", {"default": 4, "min": 1, "max": 4096, "tooltip": "Images computed at once. Lower it when "
                           "memory runs out; the result stays the same."}),
            "seed": ("INT", {**SEED, "tooltip": "Decides the order of the pairs, and the noise."})}}

    def run(self, pairs, policy, iteration, pairs_per_iteration, batch_size, seed):
        from ...trainers.data.encoded import deal
        from ...trainers.recipes.settle import OPEN
        if pairs_per_iteration == OPEN:
            pairs_per_iteration = recommended_pairs(policy, pairs)
        made, preferences = deal(pairs, policy, iteration, pairs_per_iteration, seed, batch_size)
        return (made, preferences, made.images)


def recommended_pairs(policy, pairs) -> int:
    """For the trainer that is wired to Create Policy, or else the usual one for such data: as many as its updates need."""
    from ...trainers.policy.recommended import recommended
    from ...trainers.recipes.table import PAIRS
    usual = "DiffusionDPO" if pairs.places.shape[1] == 2 else "KTO"
    found = recommended(policy.model, policy.method)
    found = found if PAIRS in found.numbers else recommended(policy.model, usual)
    return int(found.values(PAIRS)[PAIRS]) * int(found.values("optimizer")["updates"])


NODES = {"PTPairsFolder": PTPairsFolder, "PTPairsFile": PTPairsFile, "PTEncodePairs": PTEncodePairs,
         "PTEncodeEditPairs": PTEncodeEditPairs, "PTPairBatch": PTPairBatch}
NAMES = {"PTPairsFolder": "Pairs from Folder", "PTPairsFile": "Pairs from File", "PTEncodePairs": "Encode Pairs",
         "PTEncodeEditPairs": "Encode Edit Pairs", "PTPairBatch": "Pairs for Training"}
