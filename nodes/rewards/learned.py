"""Rewards with a learned network: CLIP family, ImageReward, HPSv3, aesthetics, NSFW, watermarks, any classifier."""
from __future__ import annotations

from .node import BATCH, ModelNode, model_input, precision_input

NSFW_MODELS = ("ViT (differentiable)", "open_nsfw (onnx)")


class PTRewardCLIP(ModelNode):
    DESCRIPTION = ("Scores how well an image fits its prompt, as people judged it (PickScore, HPS) or by plain "
                   "similarity (CLIPScore). Each needs its own published file in models/reward_models.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.learned.clip import ACTIVATIONS
        from ...rewards.learned.clip_rewards import KINDS
        return {"required": {
            "kind": (list(KINDS), {"tooltip": "PickScore is a good first choice. HPS scores can only be compared "
                                              "within one prompt."}),
            "model": model_input("reward_models", "clip", "text_encoders")},
            "optional": {"precision": precision_input(), "batch_size": BATCH, "activation": (list(ACTIVATIONS), {
                "tooltip": "Leave it on auto. Only for unusual checkpoints: quick_gelu for networks that OpenAI "
                           "trained, gelu for OpenCLIP's."})}}

    def run(self, kind, model, precision="auto", batch_size=16, activation="auto"):
        from ...rewards.learned.clip_rewards import KINDS, ClipReward
        from ...rewards.learned.holder import clip_tokenizer_folder, find_model
        return (ClipReward(kind, clip_holder(find_model(KINDS[kind].file, model), activation, precision),
                           clip_tokenizer_folder(), batch_size),)


class PTRewardImageReward(ModelNode):
    DESCRIPTION = ("ImageReward: how people rated an image for its prompt, about -2.3 to 2. It reads about 25 words "
                   "of a prompt.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": model_input(),
            "tokenizer": model_input(folder=True, tooltip="The folder bert-base-uncased (config.json, vocab.txt) in "
                                                          "models/reward_models; auto finds it by that name.")},
            "optional": {"precision": precision_input(), "batch_size": BATCH}}

    @classmethod
    def VALIDATE_INPUTS(cls, model, tokenizer):
        return True

    def run(self, model, tokenizer, precision="auto", batch_size=16):
        from ...rewards.learned.holder import find_model, shared
        from ...rewards.learned.imagereward import TOKENIZER, WEIGHTS, ImageReward, build_blip
        file, words = find_model(WEIGHTS, model), find_model(TOKENIZER, tokenizer)
        return (ImageReward(shared(file, "blip", lambda: build_blip(file), precision), words, batch_size),)


class PTRewardHPSv3(ModelNode):
    DESCRIPTION = ("HPSv3: human preference by a 7B vision-language model. Its own uncertainty is shown beside each "
                   "score. Wants 20 GB of VRAM. Needs a folder with weights, tokenizer and the instruction (see the help page).")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "model": model_input(folder=True),
            "caution": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 5.0, "step": 0.1, "tooltip":
                                  "Takes this many times the model's own uncertainty off the score. 0 is the "
                                  "published score; 0.5 to 1 is harder to exploit."})},
            "optional": {"precision": precision_input(), "batch_size": ("INT", {**BATCH[1], "default": 4})}}

    def run(self, model, caution, precision="auto", batch_size=4):
        from ...rewards.learned.holder import find_model, shared
        from ...rewards.learned.hpsv3 import FOLDER, HPSv3Reward, build_hpsv3
        folder = find_model(FOLDER, model)
        return (HPSv3Reward(shared(folder, "hpsv3", lambda: build_hpsv3(folder), precision), folder, caution, batch_size),)


class PTRewardAesthetic(ModelNode):
    DESCRIPTION = ("How much people like an image, whatever the prompt; 1 to 10, mostly 4 to 7. Training on it "
                   "alone changes the subject: add a reward that reads the prompt.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.learned.aesthetic import VERSIONS
        return {"required": {
            "version": (list(VERSIONS), {"tooltip": "LAION v2 is the usual one; it sits on OpenAI's CLIP ViT-L/14, "
                                                    "v2.5 on SigLIP."}),
            "model": model_input("clip_vision", "reward_models", tooltip=
                    "The image tower: clip-vit-large-patch14 for LAION, siglip-so400m-patch14-384 for v2.5, in "
                    "models/clip_vision. auto finds the published name."),
            "head": model_input(tooltip="The small head file in models/reward_models; auto finds the published "
                                        "name.")},
            "optional": {"precision": precision_input(), "batch_size": BATCH}}

    @classmethod
    def VALIDATE_INPUTS(cls, model, head):
        return True

    def run(self, version, model, head, precision="auto", batch_size=16):
        from ...rewards.learned.aesthetic import VERSIONS, AestheticReward
        from ...rewards.learned.holder import find_model, shared
        chosen = VERSIONS[version]
        tower, head_file = find_model(chosen.tower, model), find_model(chosen.head, head)
        holder = shared(tower, chosen.build.__name__, lambda: chosen.build(tower), precision)
        return (AestheticReward(version, holder, head_file, batch_size),)


class PTRewardNSFW(ModelNode):
    DESCRIPTION = ("Probability that an image is safe for work: 1 = safe. Best as a gate in an ensemble, with a "
                   "threshold of 0.5 or more.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "kind": (list(NSFW_MODELS), {"tooltip": "ViT: a folder nsfw_image_detection in models/reward_models. "
                                                    "open_nsfw: needs the Python package onnxruntime, runs on the "
                                                    "CPU."}),
            "model": model_input(folder=True)},
            "optional": {"precision": precision_input(), "batch_size": BATCH}}

    def run(self, kind, model, precision="auto", batch_size=16):
        from ...rewards.learned.classifier import OUTPUTS
        from ...rewards.learned.holder import find_model
        from ...rewards.learned.nsfw import FALCONSAI, OPEN_NSFW, OpenNSFWReward, packaged_open_nsfw
        if kind == NSFW_MODELS[1]:
            return (OpenNSFWReward(packaged_open_nsfw() or find_model(OPEN_NSFW, model), batch_size),)
        return (class_reward("safe for work", find_model(FALCONSAI, model), "nsfw", False, OUTPUTS[0], precision, batch_size),)


class PTRewardWatermark(ModelNode):
    DESCRIPTION = ("Probability that an image bears no watermark: 1 = clean. Best as a gate in an ensemble: rewards that "
                   "learned from stock pictures may teach a policy to draw their marks.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": model_input(folder=True, tooltip=
                    "A classifier folder in models/reward_models; auto finds one with watermark in its name. Its class "
                    "is found by itself.")},
                "optional": {"precision": precision_input(), "batch_size": BATCH}}

    def run(self, model, precision="auto", batch_size=16):
        from ...rewards.learned.classifier import OUTPUTS, read_labels
        from ...rewards.learned.holder import find_model
        from ...rewards.learned.watermark import FOLDER, marked_class
        folder = find_model(FOLDER, model)
        label = marked_class(read_labels(folder))
        return (class_reward("no watermark", folder, label, False, OUTPUTS[0], precision, batch_size),)


class PTRewardClassifier(ModelNode):
    DESCRIPTION = ("Probability of one class of any image classifier: a style, a subject, or the ImageNet class that the "
                   "prompt names. A folder in transformers' layout in models/reward_models.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.learned.classifier import FROM_PROMPT, OUTPUTS
        return {"required": {
            "model": model_input(folder=True, tooltip="A folder with config.json, preprocessor_config.json and "
                                                      "weights."),
            "label": ("STRING", {"default": FROM_PROMPT, "tooltip": "A class of the model, such as 'painting'; or "
                                 "'named in the prompt': the class whose name the prompt contains."}),
            "wanted": ("BOOLEAN", {"default": True, "label_on": "wanted", "label_off": "unwanted",
                                   "tooltip": "Unwanted rewards images that are not of the class."}),
            "output": (list(OUTPUTS), {"tooltip": "Log-odds keep a gradient where the probability is nearly 0 or "
                                                  "1."})},
            "optional": {"precision": precision_input(), "batch_size": BATCH}}

    def run(self, model, label, wanted, output, precision="auto", batch_size=16):
        from ...rewards.learned.classifier import ANY
        from ...rewards.learned.holder import find_model
        folder, name = find_model(ANY, model), f"{label}" if wanted else f"no {label}"
        return (class_reward(name, folder, label, wanted, output, precision, batch_size),)


def class_reward(name, folder, label, wanted, output, precision, batch_size):
    from ...rewards.learned.classifier import ClassReward, build_classifier, read_geometry, read_labels
    from ...rewards.learned.holder import shared
    holder = shared(folder, "classifier", lambda: build_classifier(folder), precision)
    return ClassReward(name, holder, read_labels(folder), read_geometry(folder), label, wanted, output, batch_size)


def clip_holder(file, activation, precision):
    from ...rewards.learned.clip import build_clip
    from ...rewards.learned.holder import shared
    return shared(file, f"clip {activation}", lambda: build_clip(file, activation), precision)


NODES = {"PTRewardCLIP": PTRewardCLIP, "PTRewardImageReward": PTRewardImageReward, "PTRewardHPSv3": PTRewardHPSv3,
         "PTRewardAesthetic": PTRewardAesthetic, "PTRewardNSFW": PTRewardNSFW, "PTRewardWatermark": PTRewardWatermark,
         "PTRewardClassifier": PTRewardClassifier}
NAMES = {"PTRewardCLIP": "PickScore, HPS, CLIPScore", "PTRewardImageReward": "ImageReward", "PTRewardHPSv3": "HPSv3",
         "PTRewardAesthetic": "Aesthetic Reward", "PTRewardNSFW": "Safe for Work Reward",
         "PTRewardWatermark": "No Watermark Reward",
         "PTRewardClassifier": "Image Classifier Reward"}
