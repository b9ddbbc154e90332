"""Evaluate While Training: held-out prompts that a run is measured on every few iterations."""

from __future__ import annotations

from ..progress import node_progress
from ..sockets import DISTANCE, EVALUATION, MENU, PROMPTS, REWARD, SAMPLING


class PTEvaluateWhileTraining:
    DESCRIPTION = (
        "Measures a training on prompts that it does not learn from, always the same ones from the same noise, beside your model "
        "before training. Connect it to Loop Start or Train: the curve shows whether it gets better where it was not trained, "
        "the best policy is kept, and Stop When can end the run by it."
    )
    CATEGORY, FUNCTION = f"{MENU}/7 Loop", "run"
    RETURN_TYPES, RETURN_NAMES = (EVALUATION,), ("evaluation",)
    OUTPUT_TOOLTIPS = ("For Loop Start or Train.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.run.held_out import HAND_OUT, LAST

        return {
            "required": {
                "prompts": (PROMPTS, {"tooltip": "Encoded prompts that are not among those that are trained on; 10 to 50."}),
                "vae": ("VAE", {"tooltip": "The model's VAE."}),
                "reward": (
                    REWARD,
                    {
                        "tooltip": "What to measure: the trained reward, or better one that is never trained on. It has to give "
                        "each image a score of its own."
                    },
                ),
                "sampling": (
                    SAMPLING,
                    {"tooltip": "Size, steps, guidance and images per prompt; sampled without random steps here."},
                ),
                "every": (
                    "INT",
                    {
                        "default": 10,
                        "min": 1,
                        "max": 100_000,
                        "tooltip": "Iterations between two measurements; the last iteration is always measured. It costs prompts "
                        "x images per prompt x steps each time, the first time twice that.",
                    },
                ),
                "hand_out": (
                    HAND_OUT,
                    {
                        "default": LAST,
                        "tooltip": "Which policy the run gives when it is done. A run that goes on does so from the last one "
                        "either way.",
                    },
                ),
            },
            "optional": {
                "distance": (
                    DISTANCE,
                    {
                        "tooltip": "From Picture Distance: FID, KID and CMMD in the curves, an alarm where FID rises with the "
                        "reward."
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(self, prompts, vae, reward, sampling, every, hand_out, unique_id=None, distance=None):
        from ...rewards.base.reward import check_prompts
        from ...trainers.sampling.evaluation import HeldOut

        check_prompts(reward, prompts.prompts)
        return (
            HeldOut(prompts, vae, reward, sampling, every, hand_out, lambda model: node_progress(unique_id, model), distance),
        )


NODES = {"PTEvaluateWhileTraining": PTEvaluateWhileTraining}
NAMES = {"PTEvaluateWhileTraining": "Evaluate While Training"}
