"""Rewards made of rewards: members with roles, the ensemble, a formula; and the calibration that they may share."""
from __future__ import annotations

from ..sockets import REWARD, SCORES
from .node import CATEGORY, RewardNode

CALIBRATION = "PT_CALIBRATION"
MEMBERS, LETTERS = 6, "abcdef"


class PTRewardMember(RewardNode):
    DESCRIPTION = ("Gives a reward its part in an ensemble. trained: counts with its weight. gate: images below the "
                   "threshold fall behind all others. monitor: only shown, never trained on.")
    OUTPUT_TOOLTIPS = ("For Reward Ensemble. Alone it scores as the reward does.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.composite.ensemble import ROLES, SCALES
        return {"required": {
            "reward": (REWARD, {"tooltip": "The reward."}),
            "role": (list(ROLES), {"tooltip": "soft gate: closes gradually around the threshold. tie-break: only "
                                              "decides between images that the trained members find equal."}),
            "weight": ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.05, "tooltip":
                                 "Relative weight of trained and tie-break members. Negative = penalty."}),
            "scale": (list(SCALES), {"tooltip": "How scores are made comparable. Inside each prompt is right for "
                                                "training; calibrated uses statistics of the base model; the win "
                                                "rate cannot be inflated by one extreme score."}),
            "threshold": ("FLOAT", {"default": 0.5, "min": -1000.0, "max": 1000.0, "step": 0.01, "round": 1e-6, "tooltip":
                                    "Gates: the raw score that an image must reach."}),
            "softness": ("FLOAT", {"default": 0.1, "min": 0.0001, "max": 1000.0, "step": 0.01, "round": 1e-6, "tooltip":
                                   "Soft gate: how wide the step is, in raw score."})}}

    def run(self, reward, role, weight, scale, threshold, softness):
        from ...rewards.composite.ensemble import Member
        return (Member(reward, role, weight, scale, threshold, softness),)


class PTRewardEnsemble(RewardNode):
    DESCRIPTION = ("Several rewards that hold each other in check: each is put on one scale inside its prompt, then "
                   "they are weighted and added. Plain rewards count with weight 1; use Reward Member for gates and "
                   "monitors.")
    RETURN_TYPES, RETURN_NAMES = (REWARD, "STRING"), ("reward", "notes")
    OUTPUT_TOOLTIPS = ("The ensemble, a reward like any other.",
                       "What to think about before training on it, and who plays which part.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.composite.ensemble import COMBINE
        members = {f"reward_{i}": (REWARD, {"tooltip": f"Member {i}: a reward, or one with a role from Reward Member."})
                   for i in range(1, MEMBERS + 1)}
        return {"required": {
            "combine": (list(COMBINE), {"tooltip": "worst member: an image is as good as its worst score. mean - k "
                                                   "* spread: disagreement costs."}),
            "k": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.1, "tooltip": "For mean - k * spread."}),
            "normalise_again": ("BOOLEAN", {"default": True, "tooltip":
                    "Brings the result to mean 0 and deviation 1 over the batch."})},
            "optional": {**members, "calibration": (CALIBRATION, {"tooltip":
                    "From Calibrate Rewards; for members on the calibrated scale."})}}

    def run(self, combine, k, normalise_again, calibration=None, **members):
        from ...rewards.composite.ensemble import Ensemble
        wired = [members[name] for name in sorted(members) if members[name] is not None]
        ensemble = Ensemble(tuple(wired), combine, k, normalise_again, calibration)
        notes = "\n".join([*ensemble.notes(), ensemble.info.description])
        return {"ui": {"text": [notes]}, "result": (ensemble, notes)}


class PTRewardFormula(RewardNode):
    DESCRIPTION = "A reward calculated from others, such as: a + 0.5*min(b, 1) - 2*(c < 0.2)"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"formula": ("STRING", {"default": "a + b", "tooltip":
                                         "The rewards are a, b, c ... Allowed: + - * / ^ < > ( ), min, max, clip(x, "
                                         "low, high), abs, exp, log, sqrt, tanh, sigmoid, relu."})},
                "optional": {x: (REWARD, {"tooltip": f"The reward called {x} in the formula."}) for x in LETTERS}}

    def run(self, formula, **rewards):
        from ...rewards.composite.formula import FormulaReward
        return (FormulaReward(formula, tuple((x, rewards[x]) for x in LETTERS if rewards.get(x) is not None)),)


class PTCalibrateRewards:
    DESCRIPTION = ("Measures rewards once on images of the base model and keeps mean, spread and quantiles with the "
                   "run, so that scores keep their meaning while the policy changes.")
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (CALIBRATION, "STRING"), ("calibration", "table")
    OUTPUT_TOOLTIPS = ("For Reward Ensemble.", "A line per reward.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "scores": (SCORES, {"tooltip": "Scores of 64 or more images of the base model, with every reward to "
                                           "calibrate: from Score Rollout or Score Images over a sum or an ensemble "
                                           "of them."}),
            "run_name": ("STRING", {"default": "my_run", "tooltip":
                    "The run that this belongs to, as in Loop Start or Train."}),
            "measure_again": ("BOOLEAN", {"default": False, "tooltip":
                    "Off: what the run has measured before is kept, and only new rewards are added."})}}

    @classmethod
    def VALIDATE_INPUTS(cls, run_name=None):
        from ..run_name import name_is_valid
        return name_is_valid(run_name)

    def run(self, scores, run_name, measure_again):
        from ...rewards.base.names import the_folder
        from ...rewards.composite.calibrate import calibrate, describe, load, save
        from ...trainers.run.folder import check_name
        from ..page.run_reader import runs_root
        folder = the_folder(runs_root() / check_name(run_name), "run_name")
        kept = {} if measure_again else load(folder)
        calibration = calibrate(scores) | kept
        save(calibration, folder)
        return {"ui": {"text": [describe(calibration)]}, "result": (calibration, describe(calibration))}


NODES = {"PTRewardMember": PTRewardMember, "PTRewardEnsemble": PTRewardEnsemble, "PTRewardFormula": PTRewardFormula,
         "PTCalibrateRewards": PTCalibrateRewards}
NAMES = {"PTRewardMember": "Reward Member", "PTRewardEnsemble": "Reward Ensemble", "PTRewardFormula": "Reward Formula",
         "PTCalibrateRewards": "Calibrate Rewards"}
