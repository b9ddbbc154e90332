"""A policy as hooks of a conditioning, of one strength or mixed in step by step."""
from __future__ import annotations

from ..sampling.rollout import schedulers
from ..sockets import MENU, POLICY


class PTPolicyHooks:
    DESCRIPTION = ("The policy as hooks whose strength changes along the sampling steps: nothing at the start, where your "
                   "model makes the composition, and all of it at the end, as DRaFT+ weighs the tuned model. Connect it to "
                   "Cond Pair Set Props. Softens what a trainer through the reward has overdone.")
    CATEGORY, FUNCTION = f"{MENU}/8 Export", "run"
    RETURN_TYPES, RETURN_NAMES = ("HOOKS",), ("hooks",)
    OUTPUT_TOOLTIPS = ("For ComfyUI's own hook nodes, with your model (not the one of Policy to Model) in KSampler.",)

    @classmethod
    def INPUT_TYPES(cls):
        strength = {"min": -4.0, "max": 4.0, "step": 0.05}
        return {"required": {
            "policy": (POLICY, {"tooltip": "A policy, trained or on its way."}),
            "strength_at_start": ("FLOAT", {**strength, "default": 0.0, "tooltip": "At the first sampling step. 1 is what was "
                                  "trained, 0 is your model as it was."}),
            "strength_at_end": ("FLOAT", {**strength, "default": 1.0, "tooltip": "At the last sampling step; in between it "
                                "changes evenly."})}}

    def run(self, policy, strength_at_start, strength_at_end):
        from ...trainers.policy import policy_as_hooks
        return (policy_as_hooks(policy, strength_at_start, strength_at_end),)


class PTAnnealedGuidance:
    DESCRIPTION = ("DRaFT+'s annealed guidance: sampling begins with your model, which makes the composition, and ends with the "
                   "trained one, whose predictions are mixed in more and more. Softens what a trainer through the reward has "
                   "overdone. Each step costs both models.")
    CATEGORY, FUNCTION = f"{MENU}/8 Export", "run"
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING", "CONDITIONING"), ("positive", "negative")
    OUTPUT_TOOLTIPS = ("For KSampler, with your model (not the one of Policy to Model).", "The same for the negative prompt.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.policy.annealed import COURSES
        return {"required": {
            "policy": (POLICY, {"tooltip": "A policy, trained or on its way."}),
            "positive": ("CONDITIONING", {"tooltip": "What KSampler would get."}),
            "negative": ("CONDITIONING", {"tooltip": "What KSampler would get."}),
            "steps": ("INT", {"default": 20, "min": 1, "max": 1000, "tooltip": "As in KSampler, at its denoise 1."}),
            "scheduler": (schedulers(), {"tooltip": "As in KSampler."}),
            "course": (list(COURSES), {"tooltip": "How the trained model's share grows from 0: even: with the steps; squared, to "
                                       "the fourth: later; switched at 0.6: all at once. At the last step it is always 1."})}}

    def run(self, policy, positive, negative, steps, scheduler, course):
        from ...trainers.policy.annealed import annealed
        return tuple(annealed(policy, given, steps, scheduler, course, name)
                     for given, name in ((positive, "positive"), (negative, "negative")))


NODES = {"PTPolicyHooks": PTPolicyHooks, "PTAnnealedGuidance": PTAnnealedGuidance}
NAMES = {"PTPolicyHooks": "Policy to Hooks (annealed)", "PTAnnealedGuidance": "Annealed Guidance"}
