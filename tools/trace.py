"""Which files one train step runs through: a step of a method on the demo world, every function call written down.

    python -m tools.trace [flow_grpo diffusion_dpo draft]      (inside develop.py's environment)

The files with the method's own mathematics come first (its file, its loss, what it shares in engine/), then the folders that
every method runs through: the optimizer's work, the network, noise, sampling, a squared error, a term that may be off.
"""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from . import pack
from .host import ROOT

SHARED = ("trainers/engine/update.py", "trainers/engine/optimizer.py", "trainers/engine/limits.py", "trainers/engine/reach.py",
          "trainers/engine/in_use.py", "trainers/engine/dealt.py", "trainers/engine/behind.py",
          "trainers/losses/error.py", "trainers/losses/penalty.py",
          "trainers/methods.py", "trainers/prompts.py")


def main(names: list[str]) -> int:
    for name in names or list(STEPS):
        own, shared = divided(files_of(STEPS[name]()))
        print(f"{name}: {len(own)} files of its own: {', '.join(own)}\n    and in what all methods share: {', '.join(shared)}")
    return 0


def files_of(step: Callable[[], object]) -> list[str]:
    """The pack's files in which a function ran during ``step``, in the order of the first call."""
    seen: dict[str, None] = {}

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_name not in ("<module>", "<lambda>"):
            seen.setdefault(frame.f_code.co_filename)

    sys.setprofile(watch)
    try:
        step()
    finally:
        sys.setprofile(None)
    inside = [Path(file) for file in seen if Path(file).is_relative_to(ROOT)]
    return [file.relative_to(ROOT).as_posix() for file in inside]


def divided(files: list[str]) -> tuple[list[str], list[str]]:
    """(the method's own files, folders that every method runs through)."""
    own = [file for file in files if file.startswith("trainers/") and file not in SHARED
           and (file.count("/") == 1 or file.startswith(("trainers/engine/", "trainers/losses/")))]
    shared = {file.rpartition("/")[0] + "/" for file in files if file not in own and not file.startswith("tools/")}
    return own, sorted(shared)


def world(steps: int = 4):
    """(policy, prompts, VAE, sampling): the demo world's flow model with a few small images."""
    models = pack.module("toy.models", host=True)
    policies, prompts = pack.module("trainers.policy"), pack.module("toy.prompts").prompt_set(held_out=False)
    encoded = pack.module("nodes.prompts").encode_prompts(prompts, models.load_clip(), "")
    policy = policies.create_policy(models.load_model("flow"), policies.Recipe(rank=4, alpha=4.0))
    sampling = pack.module("trainers.sampling.settings").Sampling(
        steps=steps, width=24, height=24, prompts_per_iteration=2, images_per_prompt=2, batch_size=4)
    return policy, encoded, models.load_vae(), sampling


def with_rollout(settings: Callable, feedback: Callable) -> Callable:
    """A step of a method that learns from a rollout; settings(), feedback(scores) make what it takes."""
    policy, prompts, vae, sampling = world()
    methods, update = pack.module("trainers.methods"), pack.module("trainers.engine.update")
    made = pack.module("trainers.sampling.rollout").rollout(policy, prompts, vae, sampling)
    scores = pack.module("rewards.base.reward").score_rollout(pack.module("rewards.rules.colour").ColourReward("brightness"), made)
    given, trainer = feedback(scores), methods.Trainer(settings(), update.Optimizer())
    return lambda: methods.train_step(policy, made, given, trainer)


def flow_grpo() -> Callable:
    return with_rollout(pack.module("trainers.flow_grpo", host=True).FlowGRPO,
                        pack.module("trainers.feedback.advantages").advantages)


def diffusion_dpo() -> Callable:
    return with_rollout(pack.module("trainers.diffusion_dpo", host=True).DiffusionDPO,
                        pack.module("trainers.feedback.pairs").preferences)


def draft() -> Callable:
    policy, prompts, vae, sampling = world()
    methods, update = pack.module("trainers.methods"), pack.module("trainers.engine.update")
    trainer = methods.Trainer(pack.module("trainers.draft").DRaFT(), update.Optimizer())
    reward = pack.module("rewards.rules.colour").ColourReward("brightness")
    return lambda: methods.backprop_step(policy, prompts, vae, reward, sampling, trainer)


STEPS = {"flow_grpo": flow_grpo, "diffusion_dpo": diffusion_dpo, "draft": draft}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
