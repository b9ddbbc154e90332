"""One train step against the bare forward and backward passes that it needs."""
from __future__ import annotations

from tools import pack

from . import Measure
from ._demo_policy import IMAGES, Bare, demo, ratio


def measure() -> list[Measure]:
    policy, prompts, vae, sampling, reward = demo()
    algorithms, gradient = pack.module("trainers.algorithms"), pack.module("trainers.policy_gradient")
    run = pack.module("trainers.rollout").rollout(policy, prompts, vae, sampling, 0)
    scores = pack.module("rewards.base").score_rollout(reward, run)
    feedback = pack.module("trainers.advantages").advantages(scores, "batch")
    trainer = algorithms.Trainer(gradient.FlowGRPO(watch_kl=False), pack.module("trainers.update").Optimizer(average=0.9))
    import torch
    rows = [slice(at, at + run.batch_size) for at in range(0, IMAGES, run.batch_size)]
    trajectory = run.trajectory

    def bare_passes():
        with Bare(policy, prompts, run.index) as network, torch.enable_grad():
            for part in rows:
                for step in range(trajectory.steps):
                    x = trajectory.states[part, step]
                    network(x, trajectory.sigmas[step].expand(len(x)), part).square().mean().backward()

    times, ours, bare = ratio(lambda: algorithms.train_step(policy, run, feedback, trainer), bare_passes)
    return [Measure("train step / bare forward and backward", times, "x", 1.10,
                    f"{ours:.2f} s against {bare:.2f} s for {IMAGES} images and {trajectory.steps} steps")]
