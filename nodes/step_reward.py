"""Step rewards: judges of half-drawn images, trained in the graph, and the rollout in which they compare candidates."""
from __future__ import annotations

from .progress import node_progress
from .rollout import CATEGORY as ROLLOUT_CATEGORY
from .sockets import MENU, POLICY, PREFERENCES, PROMPTS, REWARD, ROLLOUT, SAMPLING, SCORES, STEP_REWARD

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
        from ..trainers.feedback import pairs_only
        from ..trainers.step_reward import noised_states, train_step_reward
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
        from ..trainers.completions import compared_states, state_values
        from ..trainers.step_reward import train_step_reward
        values = state_values(policy, rollout, vae, reward, completions, progress=node_progress(unique_id))
        return self.shown(train_step_reward(policy, rollout, lambda path: compared_states(rollout, values, least_margin),
                                            rounds, progress=node_progress(unique_id)))


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
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, policy, prompts, vae, sampling, judge, iteration, candidates, threshold, sharpness, unique_id=None):
        from ..trainers.policy.latents import to_latent_socket
        from ..trainers.step_rollout import Candidates, step_rollout
        made, pairs = step_rollout(policy, prompts, vae, sampling, iteration, judge,
                                   Candidates(candidates, threshold, sharpness),
                                   progress=node_progress(unique_id, policy.model))
        return (made, pairs, made.images, to_latent_socket(policy.model, made.latents))


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
        from ..trainers.step_reward import score_latents
        scores = score_latents(policy, rollout, step_reward, levels)
        return (scores, scores.stats["mean"])


NODES = {"PTStepReward": PTStepReward, "PTStepRewardByRollouts": PTStepRewardByRollouts, "PTStepRollout": PTStepRollout,
         "PTScoreLatents": PTScoreLatents}
NAMES = {"PTStepReward": "Step Reward", "PTStepRewardByRollouts": "Step Reward by Rollouts", "PTStepRollout": "Step Rollout",
         "PTScoreLatents": "Score Latents"}
