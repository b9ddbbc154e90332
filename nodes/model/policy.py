"""Nodes that make a policy out of a MODEL, and a MODEL or a LoRA out of a policy."""
from __future__ import annotations

from ..sockets import MENU, POLICY, SEED
from ..widgets import CHOICE, filled
from .layer_pattern import checked_pattern


class PTCreatePolicy:
    DESCRIPTION = ("Makes your model trainable: a small LoRA is laid over it, and only that is trained. Your model "
                   "itself is never changed, and switched off the LoRA is the reference to compare with.")
    CATEGORY, FUNCTION = f"{MENU}/2 Policy", "run"
    RETURN_TYPES, RETURN_NAMES = (POLICY,), ("policy",)
    OUTPUT_TOOLTIPS = ("The policy before training; connect it to Loop Start or Train.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.policy import Recipe
        return {"required": {
            "model": ("MODEL", {"tooltip": "Any model that ComfyUI loads, with your own LoRAs on it if you like."}),
            **filled({
            "rank": ("INT", {"min": 1, "max": 1024,
                             "tooltip": "Size of the LoRA. 16 to 32 suits most; a larger one learns more and weighs "
                                        "more."}),
            "alpha": ("FLOAT", {"min": 0.01, "max": 4096.0, "step": 0.01,
                                "tooltip": "Strength of the LoRA is alpha / rank. Keep it near the rank."}),
            "layers": (CHOICE, {"tooltip": "Which layers get a LoRA. The default suits transformers; for SD1.5 and "
                                            "SDXL convolutions can help."}),
            "seed": ("INT", {**SEED, "tooltip": "Start of the LoRA's random weights."})}, Recipe, {"layers": "targets"})},
            "optional": {"layer_pattern": ("STRING", {
                "default": "", "tooltip": "For experts: a regular expression on layer names instead of the choice "
                                          "above. Empty: not used."})}}

    def run(self, model, rank, alpha, layers, seed, layer_pattern=""):
        from ...trainers.policy import Recipe, create_policy
        checked_pattern(layer_pattern)
        return (create_policy(model, Recipe(rank=rank, alpha=alpha, targets=layers, pattern=layer_pattern, seed=seed)),)


class PTApplyPolicy:
    DESCRIPTION = ("The policy as an ordinary MODEL: for KSampler and every other node, for before and after pictures "
                   "in the same workflow.")
    CATEGORY, FUNCTION = f"{MENU}/8 Export", "run"
    RETURN_TYPES, RETURN_NAMES = ("MODEL",), ("model",)
    OUTPUT_TOOLTIPS = ("Your model with what was learned.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "A policy, trained or on its way."}),
            "strength": ("FLOAT", {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05,
                                   "tooltip": "1 is what was trained, 0 is your model as it was. Less than 1 softens "
                                              "what was over-trained."})}}

    def run(self, policy, strength):
        from ...trainers.policy import policy_as_model
        return (policy_as_model(policy, strength),)


NODES = {"PTCreatePolicy": PTCreatePolicy, "PTApplyPolicy": PTApplyPolicy}
NAMES = {"PTCreatePolicy": "Create Policy", "PTApplyPolicy": "Policy to Model"}
