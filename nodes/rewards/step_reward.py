"""Step rewards: judges of half-drawn images, trained in the graph."""
from __future__ import annotations

from ..progress import node_progress
from ..sockets import MENU, POLICY, PREFERENCES, REWARD, ROLLOUT, SCORES, STEP_REWARD

CATEGORY = f"{MENU}/4 Rewards"
ROUNDS = ("INT", {"default": 4, "min": 1, "max": 1000, "tooltip": "How often training goes through all pairs. Too many, "
          "and it learns the pairs by heart: the shown accuracy falls."})


class StepRewardNode:
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (STEP_REWARD, "FLOAT", "STRING"), ("step reward", "accuracy", "summary")
    OUTPUT_TOOLTIPS = ("For Step Rollout and Score Latents.", "Share of pairs ordered right, on prompts that were held out.",
                       "How well it judges, at little, some and much noise.")

    @staticmethod
    def shown(reward):
        return {"ui": {"text": [reward.summary()]}, "result": (reward, reward.accuracy["all"], reward.summary())}


class PTStepReward(StepRewardNode):
    DESCRIPTION = ("Trains a small judge of noisy latents on pairs: a head on your own model, which already understands "
                   "half-drawn images. It judges without decoding. Shows how often it is right on prompts that it was not "
                   "trained on. After LPO, arXiv:2502.01051")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "From Create Policy. The model before training is what judges."}),
            "rollout": (ROLLOUT, {"tooltip": "From Rollout or Pairs for Training, outside of the loop. A hundred images or "
                                  "more."}),
            "preferences": (PREFERENCES, {"tooltip": "From Preferences ('all pairs' gives the most), or Pairs for "
                                          "Training."}),
            "levels": ("INT", {"default": 4, "min": 1, "max": 64, "tooltip": "Noise levels at which each image is shown to "
                       "it."}),
            "rounds": ROUNDS},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, policy, rollout, preferences, levels, rounds, unique_id=None):
        from ...trainers.feedback.fits import pairs_only
        from ...trainers.judges.step_reward import noised_states, train_step_reward
        pairs = pairs_only(preferences, rollout)
        return self.shown(train_step_reward(policy, rollout, lambda path: noised_states(rollout, pairs, path, levels), rounds,
                                            progress=node_progress(unique_id)))


class PTStepRewardByRollouts(StepRewardNode):
    DESCRIPTION = ("Trains a small judge of noisy latents on what half-drawn images become: each is finished several times, and "
                   "the reward of the results is its worth. Slower than Step Reward, and judges by your reward at every "
                   "step. After Math-Shepherd, arXiv:2312.08935")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "From Create Policy."}),
            "rollout": (ROLLOUT, {"tooltip": "From Rollout with random steps, outside of the loop. Several images of each "
                                  "prompt."}),
            "vae": ("VAE", {"tooltip": "The model's VAE."}),
            "reward": (REWARD, {"tooltip": "What judges the finished images."}),
            "completions": ("INT", {"default": 2, "min": 1, "max": 256, "tooltip": "How often each half-drawn image is finished. "
                            "More is more exact and slower."}),
            "least_margin": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1e6, "step": 0.01, "round": 1e-6, "tooltip": "Two "
                             "half-drawn images whose worth differs by this or less are not compared."}),
            "rounds": ROUNDS},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, policy, rollout, vae, reward, completions, least_margin, rounds, unique_id=None):
        from ...trainers.judges.completions import compared_states, state_values
        from ...trainers.judges.step_reward import train_step_reward
        values = state_values(policy, rollout, vae, reward, completions, progress=node_progress(unique_id))
        return self.shown(train_step_reward(policy, rollout, lambda path: compared_states(rollout, values, least_margin),
                                            rounds, progress=node_progress(unique_id)))


class PTScoreLatents:
    DESCRIPTION = ("Scores a rollout with a step reward, straight from its latents: no decoding, no reward network. The scores "
                   "compare images of the same prompt.")
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (SCORES, "FLOAT"), ("scores", "mean")
    OUTPUT_TOOLTIPS = ("For Advantages, Preferences or Thumbs.", "Mean over the images.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "rollout": (ROLLOUT, {"tooltip": "From Rollout or Rollout from Latents."}),
            "step_reward": (STEP_REWARD, {"tooltip": "From Step Reward."}),
            "policy": (POLICY, {"tooltip": "The policy that is trained; the model before training is what judges."}),
            "levels": ("INT", {"default": 3, "min": 1, "max": 64, "tooltip": "Noise levels at which each image is judged. "
                       "More is steadier."})}}

    def run(self, rollout, step_reward, policy, levels):
        from ...trainers.judges.step_reward import score_latents
        scores = score_latents(policy, rollout, step_reward, levels)
        return (scores, scores.stats["mean"])


NODES = {"PTStepReward": PTStepReward, "PTStepRewardByRollouts": PTStepRewardByRollouts,
         "PTScoreLatents": PTScoreLatents}
NAMES = {"PTStepReward": "Step Reward", "PTStepRewardByRollouts": "Step Reward by Rollouts",
         "PTScoreLatents": "Score Latents"}
