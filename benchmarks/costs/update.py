"""One Flow-GRPO train step against nothing but the forward and backward passes that it cannot do without."""
from __future__ import annotations

import torch

from tools import pack

from . import Measure
from ._world import World, compare, world


def measure() -> list[Measure]:
    here = world()
    rollouts, trainers = pack.module("trainers.sampling.rollout"), pack.module("trainers.flow_grpo")
    made = rollouts.rollout(here.policy, here.prompts, here.vae, here.sampling)
    count = len(made.index)
    generator = torch.Generator().manual_seed(1)
    feedback = pack.module("trainers.feedback.advantages").Advantages(
        values=torch.randn(count, generator=generator, dtype=torch.float64), used=torch.ones(count, dtype=torch.bool),
        groups=made.index, stats={}, memory=None)
    optimizer = pack.module("trainers.engine.update").Optimizer(updates=2, average=0.9)
    bare = bare_passes(here, made)

    def update(watch_kl: bool):
        settings = trainers.FlowGRPO(watch_kl=watch_kl)
        return lambda: trainers.train_flow_grpo(here.policy, made, feedback, settings, optimizer)

    ratio, ours, least = compare(update(False), bare)
    watched, with_kl, _ = compare(update(True), bare, repeats=2)
    what = f"{count} images, {made.trajectory.steps} steps"
    return [Measure("update against its own forward and backward", ratio, "x", 1.10,
                    f"{what}: {ours:.2f} s against {least:.2f} s"),
            Measure("the same, watching the KL", watched, "x", None,
                    f"{with_kl:.2f} s; one evaluation more of the reference per update")]


def bare_passes(here: World, made):
    """Forward and backward of the bare network at every state that the update visits, in the same batches."""
    size, trajectory = made.batch_size, made.trajectory
    jobs = [(trajectory.states[at:at + size, step].clone(), trajectory.sigmas[step].expand(size).clone(), arguments)
            for at in range(0, len(made.index), size)
            for arguments in [here.arguments(made.index[at:at + size])] for step in range(trajectory.steps)]
    check_same_network(here, made, jobs[0])

    def run() -> None:
        for x, sigma, arguments in jobs:
            here.bare.apply_model(x, sigma, **arguments).square().mean().backward()
        for leaf in here.leaves:
            leaf.grad = None

    return run


@torch.no_grad()
def check_same_network(here: World, made, job) -> None:
    """The two sides of the ratio must compute the same thing."""
    x, sigma, arguments = job
    with pack.module("trainers.policy").open_policy(here.policy) as net:
        ours = net.denoise(x, sigma, made.prompts, made.index[:len(x)], 1.0, net.to_device(here.policy.bank))
    torch.testing.assert_close(ours, here.bare.apply_model(x, sigma, **arguments), atol=1e-4, rtol=0)
