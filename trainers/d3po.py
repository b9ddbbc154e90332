"""D3PO (arXiv:2311.13231): learns from pairs of images, at every step of their whole trajectories."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .engine.limits import ABOVE_0, FROM_1, INSIDE_0_1
from .engine.step_pairs import step_numbers, whole_trajectories, with_reference
from .engine.update import Optimizer, update
from .feedback.pairs import Preferences
from .losses.d3po import d3po_loss
from .noise.paths import Path
from .noise.streams import Stream, generator
from .noise.transitions import TRANSITIONS, ddim, log_prob, sample
from .policy.levels import path_of
from .policy.uploads import uploaded
from .policy.value import Policy
from .sampling.draws import SampleNoise
from .sampling.rollout import Rollout, Trajectory


@dataclass(frozen=True)
class D3PO:
    """D3PO (arXiv:2311.13231). beta: sharpness; clip_range: how far a step's ratio may move from the reference;
    rebuilt_steps: for images without trajectory, the number of steps that are rebuilt."""

    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "clip_range": INSIDE_0_1, "rebuilt_steps": FROM_1}
    beta: float = 0.1
    clip_range: float = 0.1
    rebuilt_steps: int = 10


def train_d3po(policy: Policy, rollout: Rollout, preferences: Preferences, settings: D3PO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A D3PO step. Evaluations per pair and step: 2 with gradient and 2 of the reference."""
    if rollout.trajectory is None:
        path = path_of(policy.model.get_model_object("model_sampling"))
        rollout = rebuilt(rollout, path, settings.rebuilt_steps)
    steps = whole_trajectories(rollout, preferences, optimizer.updates)

    def evaluate(net, bank, micro):
        now, reference = with_reference(net, bank, rollout, micro)
        reached = uploaded(rollout.random_steps().states[micro.rows, micro.step + 1], net.device)
        form = TRANSITIONS[rollout.random_steps().transition].form
        out = d3po_loss(*log_prob(reached, now, form).chunk(2), *log_prob(reached, reference, form).chunk(2),
                        settings.beta, settings.clip_range)
        return out.loss, step_numbers(out, now, reference)

    return update(policy, steps, evaluate, optimizer, progress=progress)


def rebuilt(rollout: Rollout, path: Path, steps: int) -> Rollout:
    """The rollout with a trajectory that leads to its latents, drawn from q(x_next | x, x0): a step's ancestral
    posterior. The noise is the same for all images of a prompt. Its log-probabilities are the posterior's."""
    grid = rollout.sigmas[:-1]
    if not 1 <= steps < len(grid):
        raise ValueError(f"rebuilt steps: {steps} steps cannot be taken out of {len(grid)} noise levels; choose 1 to "
                         f"{len(grid) - 1}")
    sigmas = grid[torch.linspace(0, len(grid) - 1, steps + 1).round().long()]
    x0, shape, posterior = rollout.latents, tuple(rollout.latents.shape[1:]), ddim(1.0)
    shared = {int(i): int(torch.randint(2**62, (), generator=generator(rollout.iteration, int(i), Stream.REBUILT)))
              for i in rollout.index.unique()}
    noise = SampleNoise(torch.tensor([shared[int(i)] for i in rollout.index]))
    states, means, log_probs = [path.add_noise(x0, noise.next(shape), sigmas[0].expand(len(x0)))], [], []
    for here, there in zip(sigmas[:-1], sigmas[1:]):
        step = posterior(path, states[-1], x0, here.expand(len(x0)), there.expand(len(x0)))
        states.append(sample(step, noise.next(shape)))
        means.append(step.mean)
        log_probs.append(log_prob(states[-1], step))
    return replace(rollout, trajectory=Trajectory(torch.stack(states, 1), torch.stack(log_probs, 1),
                                                  torch.stack(means, 1), sigmas, "ddim", 1.0))
