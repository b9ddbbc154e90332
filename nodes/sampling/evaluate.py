"""Scores a policy on held-out prompts, beside the model before training."""
from __future__ import annotations

from ..progress import node_progress
from ..sockets import DISTANCE, MENU, POLICY, PROMPTS, REWARD, SAMPLING, SCORES


class PTEvaluate:
    DESCRIPTION = ("Measures what was learned: images of every prompt with the policy and with your model before "
                   "training, from the same noise, scored by the reward. Use prompts that were not trained on.")
    CATEGORY, FUNCTION, OUTPUT_NODE = f"{MENU}/8 Export", "run", True
    RETURN_TYPES, RETURN_NAMES = (SCORES, "IMAGE", "IMAGE", "STRING"), ("scores", "after", "before", "summary")
    OUTPUT_TOOLTIPS = ("Scores after training.", "Images of the trained policy.", "The same prompts and noise before "
                       "training.", "The result in one sentence.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "Usually from Loop End or Train."}),
            "prompts": (PROMPTS, {"tooltip": "Encoded prompts, best ones that were not trained on."}),
            "vae": ("VAE", {"tooltip": "The model's VAE."}),
            "reward": (REWARD, {"tooltip": "What to measure: the trained reward, or better another one."}),
            "sampling": (SAMPLING, {"tooltip": "Size, steps, guidance and images per prompt; sampled without random "
                                    "steps here."}),
            "compare": ("BOOLEAN", {"default": True, "tooltip": "Also sample your model before training (twice the "
                                    "time)."})},
            "optional": {"distance": (DISTANCE, {"tooltip": "From Picture Distance: also FID, KID and CMMD, before and after."})},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, policy, prompts, vae, reward, sampling, compare, unique_id=None, distance=None):
        from ...trainers.sampling.evaluation import evaluate
        result = evaluate(policy, prompts, vae, reward, sampling, compare, node_progress(unique_id, policy.model), distance)
        before = result.images if result.base_images is None else result.base_images
        return {"ui": {"text": [result.summary()]}, "result": (result.scores, result.images, before, result.summary())}


NODES = {"PTEvaluate": PTEvaluate}
NAMES = {"PTEvaluate": "Evaluate Policy"}
