"""Rewards that check rules: text in the image, objects, GenEval."""
from __future__ import annotations

from .learned import clip_holder
from .node import ModelNode, RewardNode, model_input, precision_input

DETECTOR = "PT_DETECTOR"
DETECTORS = ("fixed classes (DETR, RT-DETR, YOLOS)", "any word (OWL-ViT, OWLv2)")
NO_COLOUR = "none"
RULE_TIP = "dense gives partial credit and is best for training; strict and official are 0 or 1."


class PTRewardOCR(RewardNode):
    DESCRIPTION = ('Reads the image and compares it with the text in double quotes of the prompt: a sign that says "Open". '
                   "Needs the Python package rapidocr. Add a reward that looks at the picture, or only text will be "
                   "left.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.rules.ocr import RULES
        return {"required": {"rule": (list(RULES), {"tooltip": "contains (as in Flow-GRPO): other text does no "
                                                               "harm. exact: all the text must be the wanted one; "
                                                               "harder to exploit."})}}

    def run(self, rule):
        from ...rewards.rules.ocr import OCRReward
        return (OCRReward(rule),)


class PTDetector(ModelNode):
    DESCRIPTION = "An object detector for the object and GenEval rewards."
    RETURN_TYPES, RETURN_NAMES = (DETECTOR,), ("detector",)
    OUTPUT_TOOLTIPS = ("For Object Reward and GenEval Reward.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "kind": (list(DETECTORS), {"tooltip": "Fixed classes (the 80 of COCO) are surer; OWL looks for any "
                                                  "word."}),
            "model": model_input("reward_models", "detection", folder=True, tooltip=
                    "A folder in models/reward_models or models/detection, such as rtdetr_r50vd_coco_o365 or "
                    "owlv2-base-patch16-ensemble."),
            "precision": precision_input()}}

    def run(self, kind, model, precision):
        from ...rewards.learned.holder import clip_tokenizer_folder, find_model, shared
        from ...rewards.rules import detectors as d
        if kind == DETECTORS[0]:
            folder = find_model(d.RT_DETR, model)
            return (d.DetrDetector(shared(folder, "detr", lambda: d.build_detr(folder), precision), folder),)
        folder = find_model(d.OWLV2, model)
        return (d.OwlDetector(shared(folder, "owl", lambda: d.build_owl(folder), precision), folder, clip_tokenizer_folder()),)


def threshold_inputs(confidence: float) -> dict:
    return {"confidence": ("FLOAT", {"default": confidence, "min": 0.05, "max": 0.99, "step": 0.01, "tooltip":
                                     "A detection counts above this. Look at the base model's images to set it: "
                                     "about 0.3 for GenEval's own detector, 0.5 for RT-DETR, 0.2 for OWL."}),
            "overlap": ("FLOAT", {"default": 0.7, "min": 0.1, "max": 1.0, "step": 0.05, "tooltip":
                                  "Two boxes of one class that overlap more than this are one object. 1 = count "
                                  "all, as GenEval does."})}


class PTRewardObjects(RewardNode):
    DESCRIPTION = "Are these objects in the image, and as many of each? The same for all prompts."

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.rules.objects import RULES
        return {"required": {
            "detector": (DETECTOR, {"tooltip": "From Object Detector."}),
            "objects": ("STRING", {"default": "cat: 2, dog", "tooltip":
                    "Names with their numbers: 'cat: 2, dog' is two cats and one dog."}),
            "rule": (list(RULES), {"tooltip": RULE_TIP}), **threshold_inputs(0.4)}}

    def run(self, detector, objects, rule, confidence, overlap):
        from ...rewards.rules.geneval import Thresholds
        from ...rewards.rules.objects import RuleReward, objects_spec
        return (RuleReward(detector, rule, Thresholds(confidence, confidence, overlap=overlap), spec=objects_spec(objects)),)


class PTRewardGenEval(ModelNode):
    DESCRIPTION = ("Checks the record of each prompt: objects, counts, colours, positions. Prompts with records "
                   "come from a GenEval .jsonl file through Prompt File. GenEval, arXiv:2310.11513.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.rules.objects import RULES
        colour = model_input("reward_models", "clip", tooltip="Names colours: CLIP ViT-L/14 with both towers. "
                                                              "'none' is enough for prompts without colours.")
        return {"required": {
            "detector": (DETECTOR, {"tooltip": "From Object Detector."}),
            "rule": (list(RULES), {"tooltip": RULE_TIP}), **threshold_inputs(0.3),
            "counting_confidence": ("FLOAT", {"default": 0.9, "min": 0.05, "max": 0.99, "step": 0.01, "tooltip":
                                              "The threshold for counting prompts, where a doubtful object would "
                                              "spoil the count. 0.9 for GenEval's own detector, lower for others."}),
            "model": ([NO_COLOUR, *colour[0]], colour[1])}}

    def run(self, detector, rule, confidence, overlap, counting_confidence, model):
        from ...rewards.learned.clip_rewards import KINDS
        from ...rewards.learned.holder import find_model
        from ...rewards.rules.geneval import Thresholds
        from ...rewards.rules.objects import ClipColours, RuleReward
        colours = None
        if model != NO_COLOUR:
            colours = ClipColours(clip_holder(find_model(KINDS["CLIPScore"].file, model), "auto", "auto"))
        return (RuleReward(detector, rule, Thresholds(confidence, counting_confidence, overlap=overlap), colours),)


NODES = {"PTRewardOCR": PTRewardOCR, "PTDetector": PTDetector, "PTRewardObjects": PTRewardObjects,
         "PTRewardGenEval": PTRewardGenEval}
NAMES = {"PTRewardOCR": "Text in Image Reward (OCR)", "PTDetector": "Object Detector", "PTRewardObjects": "Object Reward",
         "PTRewardGenEval": "GenEval Reward"}
