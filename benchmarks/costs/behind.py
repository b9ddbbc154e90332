"""What it costs to learn from images of one iteration before: the demo's Flow-GRPO, on policy and one iteration behind."""

from __future__ import annotations

from dataclasses import replace

from tools import pack

from . import Measure

ITERATIONS, LAST = 16, 4


def measure() -> list[Measure]:
    found = {behind: _rewards(behind) for behind in (False, True)}
    ends = {behind: sum(each[-LAST:]) / LAST for behind, each in found.items()}
    curves = "; ".join(
        f"{'behind' if behind else 'on policy'} {' '.join(f'{value:.3f}' for value in each[::3])}"
        for behind, each in found.items()
    )
    begun = found[False][0]
    return [
        Measure("reward gained on policy", ends[False] - begun, "", detail=f"every third iteration: {curves}"),
        Measure("reward gained one iteration behind", ends[True] - begun, ""),
    ]


def _rewards(behind: bool) -> list[float]:
    """The reward's mean in each iteration. Images are drawn as other computers would draw them, in this process."""
    from ._world import world

    made, rewards = world(images_per_prompt=8, window="random each iteration"), pack.module("rewards.base.reward")
    sampling, methods = pack.module("trainers.sampling.rollout"), pack.module("trainers.methods")
    compared = pack.module("trainers.feedback.advantages")
    optimizer = pack.module("trainers.engine.update").Optimizer(learning_rate=1e-3, updates=2)
    trainer = methods.Trainer(pack.module("trainers.flow_grpo").FlowGRPO(clip_range=2e-4), optimizer)
    judge, found = pack.module("toy.verifier").ToyVerifier(), []
    policy = pack.module("trainers.policy").create_policy(made.policy.model, made.policy.recipe)
    sampler = policy.bank
    for iteration in range(ITERATIONS):
        sampler = sampler if behind else policy.bank
        images = sampling.rollout(replace(policy, bank=sampler), made.prompts, made.vae, made.sampling, iteration)
        late = sampling.Behind(int(iteration > 0), sampler)
        images = replace(images, behind=late if behind else None)
        feedback = compared.advantages(rewards.score_rollout(judge, images), "group mean, global std")
        sampler = policy.bank
        policy = methods.train_step(policy, images, feedback, trainer)
        found.append(policy.metrics["reward_mean"])
    return found
