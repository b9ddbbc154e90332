"""The random steps of a rollout evaluated again by the transition alone, and the loss and gradient that follow from a formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.noise.transitions import transition_named
from posttrain.trainers.policy import open_policy

PLAIN = Optimizer(max_grad_norm=0.0, weight_decay=0.0)


class Step(NamedTuple):
    """One step of some samples: now, at the rollout and under the reference. [B], means [B, C, H, W]."""

    mean: torch.Tensor
    old_mean: torch.Tensor
    std: torch.Tensor
    delta: torch.Tensor
    log_prob: torch.Tensor
    old_log_prob: torch.Tensor
    advantage: torch.Tensor
    kl: torch.Tensor


class Moved(NamedTuple):
    """A step's mean and std."""

    mean: torch.Tensor
    std: torch.Tensor

    def log_prob(self, reached: torch.Tensor) -> torch.Tensor:
        square = (reached - self.mean).square().flatten(1).mean(1)
        return -square / (2 * self.std**2) - self.std.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))


def moved(net, bank, run, rows: torch.Tensor, step: int | torch.Tensor) -> Moved:
    sigma, sigma_next = (run.trajectory.sigmas[k].expand(len(rows)) for k in (step, step + 1))
    x = run.trajectory.states[rows, step]
    x0 = net.denoise(x, sigma, run.prompts, run.index[rows], run.guidance, bank, schedule=run.sigmas)
    made = transition_named(run.trajectory.transition, run.trajectory.strength, net.path)(net.path, x, x0, sigma, sigma_next)
    return Moved(made.mean, made.std)


def distance(mean: torch.Tensor, other: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    return (mean - other).square().flatten(1).mean(1) / (2 * std**2)


def summed(policy, parts: list, loss_of: Callable) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the sum of ``loss_of(net, bank, part)``."""
    total = 0.0
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        for part in parts:
            loss, _ = net.gradients(lambda part=part: (loss_of(net, bank, part), {}), list(bank.values()))
            total += float(loss)
        return total, torch.cat([bank[key].grad.flatten() for key in sorted(bank)])


def by_hand(policy, run, advantage: torch.Tensor, row_loss: Callable) -> tuple[float, torch.Tensor]:
    """The mean of ``row_loss(Step) -> [B]`` over all samples and random steps, and its gradient. advantage: [B] or [B, S]."""
    count, length = run.trajectory.states.shape[0], run.trajectory.steps
    each = advantage.float() if advantage.ndim == 2 else advantage.float()[:, None].expand(-1, length)

    def loss_of(net, bank, part):
        return row_loss(stepped(net, bank, run, each, *part)).sum() / (count * length)

    return summed(policy, parts_of(run), loss_of)


def parts_of(run) -> list[tuple[torch.Tensor, int]]:
    """(rows, step): every random step of every batch of the rollout."""
    batches = torch.arange(len(run.index)).split(run.batch_size)
    return [(rows, step) for rows in batches for step in range(run.trajectory.steps)]


def clipped(ratio: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """PPO's loss of each row."""
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def stepped(net, bank, run, each: torch.Tensor, rows: torch.Tensor, step: int) -> Step:
    made, trajectory = moved(net, bank, run, rows, step), run.trajectory
    with torch.no_grad():
        reference = moved(net, None, run, rows, step)
    return Step(
        made.mean,
        trajectory.means[rows, step],
        made.std,
        (trajectory.sigmas[step] - trajectory.sigmas[step + 1]).expand(len(rows)),
        made.log_prob(trajectory.states[rows, step + 1]),
        trajectory.log_probs[rows, step],
        each[rows, step],
        distance(made.mean, reference.mean, made.std),
    )


def gradient(new) -> torch.Tensor:
    """Of the only update that a policy without moments has had: AdamW keeps a tenth of it."""
    return torch.cat([new.optimizer[key].flatten() for key in sorted(new.optimizer) if key.endswith("exp_avg")]) * 10


def agrees(new, expected: tuple[float, torch.Tensor]) -> None:
    loss, found = expected
    assert abs(new.metrics["loss"] - loss) <= 1e-4 * max(abs(loss), 1e-3), (new.metrics["loss"], loss)
    size = float(found.abs().max())
    torch.testing.assert_close(gradient(new), found, rtol=2e-3, atol=2e-4 * size)


def clipped_gain(now: torch.Tensor, reference: torch.Tensor, clip: float) -> torch.Tensor:
    """log-ratio of a step to the reference, between log(1 - clip) and log(1 + clip)."""
    low, high = torch.tensor([1 - clip, 1 + clip]).log()
    return (now - reference).clamp(float(low), float(high))
