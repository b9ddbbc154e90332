"""From scores to advantages."""
from __future__ import annotations

from ..sockets import ADVANTAGES, MENU, POLICY, SCORES


class PTAdvantages:
    DESCRIPTION = ("Turns scores into advantages: how much better each image is than what the policy usually makes of "
                   "its prompt.")
    CATEGORY, FUNCTION = f"{MENU}/5 Feedback", "run"
    RETURN_TYPES, RETURN_NAMES = (ADVANTAGES,), ("advantages",)
    OUTPUT_TOOLTIPS = ("For Train Step.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.feedback.advantages import RULES
        return {"required": {
            "scores": (SCORES, {"tooltip": "From Score."}),
            "rule": (RULES, {"default": RULES[0], "tooltip": "What an image is compared with. The default is "
                     "Flow-GRPO's; 'per-prompt memory' is DDPO's and works with few images per prompt."}),
            "clip": ("FLOAT", {"default": 5.0, "min": 0.1, "max": 100.0, "step": 0.1,
                     "tooltip": "Advantages beyond this are cut, so that one odd image cannot decide."})},
            "optional": {"policy": (POLICY, {"tooltip": "Needed only by 'per-prompt memory': the policy carries what "
                                             "the rule remembers."})}}

    def run(self, scores, rule, clip, policy=None):
        from ...trainers.feedback.advantages import advantages
        if rule == "per-prompt memory" and policy is None:
            raise ValueError("policy: the rule 'per-prompt memory' needs it, since the policy carries what it remembers; "
                             "connect the loop's policy, or choose another rule")
        memory = None if policy is None else policy.memory.get("rewards")
        return (advantages(scores, rule, clip=clip, memory=memory),)


NODES = {"PTAdvantages": PTAdvantages}
NAMES = {"PTAdvantages": "Advantages"}
