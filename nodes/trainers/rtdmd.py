"""The node of RTDMD, for models of few steps."""

from __future__ import annotations

from ..sockets import REWARD
from .node import TrainerNode


class PTRTDMD(TrainerNode):
    DESCRIPTION = (
        "RTDMD: post-trains models that draw in few steps, Turbo and distilled ones. The random steps learn from any reward, "
        "the last one follows a differentiable one where it is connected here, and a brake holds the pictures to what your "
        "model makes. Sample 4 steps with flow_cps (ddim for SD1.5 and SDXL) and cfg 1. arXiv:2605.26108"
    )
    RATE, UPDATES = 3e-6, 1
    SETTINGS = {
        "clip_range": (
            "FLOAT",
            {
                "max": 0.9,
                "step": 1e-6,
                "round": 1e-9,
                "tooltip": "How far one rollout may move the policy at each random step. 0.00001 for flow_cps, else 0.0001.",
            },
        ),
        "brake": (
            "FLOAT",
            {
                "max": 1000.0,
                "step": 1e-4,
                "round": 1e-7,
                "tooltip": "Weight of the brake, which keeps what the last step makes like the pictures of your model. Raise it "
                "where pictures lose quality while the reward rises. 0: none, which saves 3 evaluations per image.",
            },
        ),
        "guidance": (
            "FLOAT",
            {
                "max": 30.0,
                "step": 0.1,
                "tooltip": "Guidance scale (cfg) at which your model is asked for the brake. 0: as the rollout was sampled, "
                "right for Turbo models; about 4.5 where your model below the LoRA is one of many steps.",
            },
        ),
        "fake_rate": (
            "FLOAT",
            {
                "max": 1.0,
                "step": 1e-6,
                "round": 1e-9,
                "tooltip": "How fast the brake's second network learns the pictures of the policy: about 10 times learning_rate.",
            },
        ),
    }
    LATER = {
        "margin": (
            "FLOAT",
            {
                "min": -1000.0,
                "max": 1000.0,
                "step": 0.1,
                "tooltip": "Pictures whose reward here is this or more are left alone.",
            },
        ),
        "scale": (
            "FLOAT",
            {
                "max": 1000.0,
                "step": 1e-5,
                "round": 1e-9,
                "tooltip": "Weight of the reward that is connected here, beside the brake's. 0: it is only measured.",
            },
        ),
        "reward": (
            REWARD,
            {"tooltip": "A reward with a gradient for the last step, such as PickScore; it may be another one than Score has."},
        ),
        "vae": ("VAE", {"tooltip": "Needed with the reward: its gradient passes through the pictures."}),
    }

    @classmethod
    def kind(cls):
        from ...trainers.rtdmd import RTDMD

        return RTDMD

    def settings(self, reward=None, vae=None, **own):
        from ...trainers.rtdmd import Judge

        if (reward is None) != (vae is None):
            there, missing = ("reward", "vae") if vae is None else ("vae", "reward")
            raise ValueError(
                f"{missing}: {there} is connected, but no {missing}; the last step needs both to follow a "
                f"reward: connect the {missing} too, or take the {there} off"
            )
        return super().settings(**own, judge=None if reward is None else Judge(reward, vae))


NODES = {"PTRTDMD": PTRTDMD}
NAMES = {"PTRTDMD": "RTDMD (few steps)"}
