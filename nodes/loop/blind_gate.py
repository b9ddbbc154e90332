"""Blind Comparison: a judge, or a person, decides whether a training's pictures are better, without knowing whose they are."""

from __future__ import annotations

from ..sockets import EVALUATION, MENU, REWARD


class PTBlindComparison:
    DESCRIPTION = (
        "Makes held-out pictures pass a blind test: every time that they are measured, the policy's stand beside those of the "
        "same prompts and noise from before, sides hidden and turned at random, and a judge or a person chooses. Only a policy "
        "that is preferred beyond doubt counts as better. Put it between Evaluate While Training and Loop Start or Train."
    )
    CATEGORY, FUNCTION = f"{MENU}/7 Loop", "run"
    RETURN_TYPES, RETURN_NAMES = (EVALUATION,), ("evaluation",)
    OUTPUT_TOOLTIPS = ("For Loop Start or Train.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.run.gate import AGAINST

        return {
            "required": {
                "evaluation": (EVALUATION, {"tooltip": "From Evaluate While Training: which prompts, and how often."}),
                "judge": (
                    REWARD,
                    {
                        "tooltip": "Who chooses. Rate by Hand (best and worst) asks you in the page; VLM Pair Judge looks at "
                        "both pictures; of any other reward the higher score wins. Best one that is not trained on."
                    },
                ),
                "against": (
                    AGAINST,
                    {
                        "tooltip": "What it is compared with. The best policy so far is your model until a policy passes, then "
                        "that one: each must beat the last."
                    },
                ),
                "most_pairs": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 10_000,
                        "tooltip": "Pairs that are judged each time; 0: all pictures. To tell 60 % from even takes about 100, "
                        "70 % about 25.",
                    },
                ),
            }
        }

    def run(self, evaluation, judge, against, most_pairs):
        from dataclasses import replace

        from ...rewards.base.reward import check_prompts
        from ...trainers.data.blind_ab import BlindAB

        check_prompts(judge, evaluation.prompts.prompts)
        return (replace(evaluation, blind=BlindAB(judge, against, most_pairs)),)


NODES = {"PTBlindComparison": PTBlindComparison}
NAMES = {"PTBlindComparison": "Blind Comparison"}
