"""The rollout in which several candidates of each step are compared."""
from __future__ import annotations

from ..loop.readers import means_are_read
from ..progress import node_progress
from ..sockets import POLICY, PREFERENCES, PROMPTS, REWARD, ROLLOUT, SAMPLING, STEP_REWARD
from .rollout import CATEGORY as ROLLOUT_CATEGORY
from .rollout import say_need


class PTStepRollout:
    DESCRIPTION = ("Samples images as Rollout does, and at every random step draws several candidates from the same state: the "
                   "best and the worst become a pair for SPO. Takes the place of Rollout, Score and Preferences in the "
                   "loop. arXiv:2406.04314")
    CATEGORY, FUNCTION = ROLLOUT_CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (ROLLOUT, PREFERENCES, "IMAGE", "LATENT"), ("rollout", "preferences", "images", "latents")
    OUTPUT_TOOLTIPS = ("For Train Step, with the preferences.", "For Train Step with SPO.", "The images, for a preview.",
                       "The clean latents.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "Inside a loop: from Loop Start."}),
            "prompts": (PROMPTS, {"tooltip": "From Encode Prompts."}),
            "vae": ("VAE", {"tooltip": "The model's VAE."}),
            "sampling": (SAMPLING, {"tooltip": "From Sampling Settings, with random steps. Few images per prompt are enough."}),
            "judge": (f"{STEP_REWARD},{REWARD}", {"tooltip": "A step reward, which looks at the noisy candidates, or any reward, "
                      "which looks at their decoded estimates (slower)."}),
            "iteration": ("INT", {"default": 0, "min": 0, "max": 2**31, "forceInput": True,
                          "tooltip": "From Loop Start: decides which prompts and which noise this time."}),
            "candidates": ("INT", {"default": 4, "min": 2, "max": 64, "tooltip": "Candidates at each random step. Each "
                           "costs a judgement."}),
            "threshold": ("FLOAT", {"default": 0.3, "min": 0.0, "max": 0.99, "step": 0.01, "tooltip": "Pairs of which the "
                          "judge is less sure are left out: 0 keeps all, 0.3 is usual for step rewards."}),
            "sharpness": ("FLOAT", {"default": 1.0, "min": 0.001, "max": 10000.0, "step": 0.1, "tooltip": "Multiplies the scores "
                          "before the threshold. 1 for step rewards; raise it for rewards with a narrow range, such as "
                          "5 for a range of 0 to 1."})},
            "hidden": {"unique_id": "UNIQUE_ID", "dynprompt": "DYNPROMPT"}}

    def run(self, policy, prompts, vae, sampling, judge, iteration, candidates, threshold, sharpness, unique_id=None,
            dynprompt=None):
        from ...trainers.judges.step_rollout import Candidates, step_rollout
        from ...trainers.policy.latents import to_latent_socket
        made, pairs = step_rollout(policy, prompts, vae, sampling, iteration, judge,
                                   Candidates(candidates, threshold, sharpness),
                                   keep_means=means_are_read(dynprompt, unique_id), tell=say_need,
                                   progress=node_progress(unique_id, policy.model))
        return (made, pairs, made.images, to_latent_socket(policy.model, made.latents))


NODES = {"PTStepRollout": PTStepRollout}
NAMES = {"PTStepRollout": "Step Rollout"}
