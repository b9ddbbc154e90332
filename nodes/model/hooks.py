"""A policy as hooks of a conditioning."""
from __future__ import annotations

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


NODES = {"PTPolicyHooks": PTPolicyHooks}
NAMES = {"PTPolicyHooks": "Policy to Hooks (annealed)"}
