"""One train step's optimizer work: micro-batches, accumulation, clipping, AdamW, warm-up, running mean.

Every trainer comes through here; it differs by what ``evaluate`` computes for a micro-batch.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch

from .limits import BELOW_1, FROM_0, FROM_1
from .policy.network import Network, open_policy
from .policy.value import Bank, Policy

SKIPPED = "skipped_updates_in_a_row"


@dataclass(frozen=True)
class Optimizer:
    """AdamW (arXiv:1711.05101) and what surrounds it.

    learning_rate: after warm-up; weight_decay; max_grad_norm: gradients are scaled down to this norm (0: never);
    warmup: optimizer steps in which the rate rises from 0; decay: optimizer steps after which it has fallen, on a
    line, to a tenth (0: it stays); average: decay of the running mean of the weights, approached as
    min(average, (1 + n) / (10 + n)) (0: none is kept); updates: optimizer steps per rollout; low_memory: drop
    activations and recompute them, one more forward per micro-batch.
    """

    LIMITS: ClassVar[dict] = {"learning_rate": FROM_0, "weight_decay": FROM_0, "max_grad_norm": FROM_0, "warmup": FROM_0,
                              "decay": FROM_0, "average": BELOW_1, "updates": FROM_1}
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    warmup: int = 0
    decay: int = 0
    average: float = 0.0
    updates: int = 1
    low_memory: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def rate(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = max(0.1, 1.0 - 0.9 * step / self.decay) if self.decay else 1.0
        return self.learning_rate * rise * fall


class Micro(Protocol):
    """A micro-batch: ``size`` is its share of the optimizer step's mean."""

    size: int


Evaluate = Callable[[Network, Bank, Micro], tuple[torch.Tensor, dict[str, float]]]


def update(policy: Policy, steps: Sequence[Sequence[Micro]], evaluate: Evaluate, optimizer: Optimizer, *,
           progress: Callable[[int, int], None] | None = None, also_load: Sequence = ()) -> Policy:
    """A new policy after one optimizer step for each list of micro-batches in ``steps``.

    evaluate(net, bank, micro) returns the micro-batch's mean loss, with gradient, and numbers to report; losses are
    weighted by ``size``, so how a batch is cut does not change the result. An update whose loss or gradient is not
    finite is skipped and counted in the metrics. also_load: ModelPatchers that ``evaluate`` needs beside the policy's.
    """
    total, done = sum(len(micros) for micros in steps), 0
    reports, skipped, in_a_row, norms = _Mean(), 0, int(policy.metrics.get(SKIPPED, 0)), []
    with open_policy(policy, also_load=also_load) as net:
        net.recomputing_blocks(optimizer.low_memory)
        bank = net.to_device(policy.bank, train=True)
        average = None if not optimizer.average else net.to_device(policy.ema or policy.bank)
        adam = _adamw(bank, policy, optimizer, net)
        step = policy.step
        for micros in steps:
            size = sum(micro.size for micro in micros)
            finite = True
            for micro in micros:
                net.check_cancelled()
                share = micro.size / size
                loss, report = net.gradients(lambda: _weighted(evaluate(net, bank, micro), share), list(bank.values()))
                reports.add(report | {"loss": float(loss) / share}, micro.size)
                finite = finite and math.isfinite(float(loss))
                done += 1
                if progress is not None:
                    progress(done, total)
            norm = _clip(bank, optimizer.max_grad_norm)
            if finite and math.isfinite(norm):
                adam.param_groups[0]["lr"] = optimizer.rate(step)
                adam.step()
                step, in_a_row = step + 1, 0
                norms.append(norm)
                _running_mean(average, bank, optimizer.average, step)
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
            adam.zero_grad(set_to_none=True)
        metrics = reports.means() | {
            "grad_norm": sum(norms) / len(norms) if norms else float("nan"), "updates": len(norms),
            "skipped_updates": skipped, SKIPPED: in_a_row, "learning_rate": optimizer.rate(max(0, step - 1)),
            "update_evaluations": net.evaluations}
        return replace(policy, bank=_to_ram(bank), ema=policy.ema if average is None else _to_ram(average),
                       optimizer=_moments(bank, adam), step=step, metrics=metrics)


def _weighted(answer: tuple[torch.Tensor, dict], share: float) -> tuple[torch.Tensor, dict]:
    loss, report = answer
    return loss * share, report


def _adamw(bank: Bank, policy: Policy, settings: Optimizer, net: Network) -> torch.optim.AdamW:
    adam = torch.optim.AdamW(list(bank.values()), lr=settings.learning_rate, betas=settings.betas,
                             eps=settings.epsilon, weight_decay=settings.weight_decay)
    moments = net.to_device(policy.optimizer)
    for key, weight in bank.items():
        if f"{key}.exp_avg" in moments:
            adam.state[weight] = {"step": torch.tensor(float(policy.step)), "exp_avg": moments[f"{key}.exp_avg"],
                                  "exp_avg_sq": moments[f"{key}.exp_avg_sq"]}
    return adam


def _moments(bank: Bank, adam: torch.optim.AdamW) -> Bank:
    return {f"{key}.{name}": adam.state[weight][name].detach().cpu()
            for key, weight in bank.items() for name in ("exp_avg", "exp_avg_sq") if weight in adam.state}


def _to_ram(bank: Bank) -> Bank:
    return {key: weight.detach().cpu() for key, weight in bank.items()}


def _clip(bank: Bank, largest: float) -> float:
    used = [weight for weight in bank.values() if weight.grad is not None]
    return float(torch.nn.utils.clip_grad_norm_(used, largest if largest > 0 else math.inf)) if used else math.nan


@torch.no_grad()
def _running_mean(average: Bank | None, bank: Bank, decay: float, step: int) -> None:
    if average is None:
        return
    d = min(decay, (1 + step) / (10 + step))
    for key, mean in average.items():
        mean.lerp_(bank[key], 1 - d)


class _Mean:
    """Means of reported numbers, weighted by size; a number counts where it was reported."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._sizes: dict[str, float] = {}

    def add(self, report: dict[str, float], size: float) -> None:
        for key, value in report.items():
            self._sums[key] = self._sums.get(key, 0.0) + float(value) * size
            self._sizes[key] = self._sizes.get(key, 0.0) + size

    def means(self) -> dict[str, float]:
        return {key: self._sums[key] / self._sizes[key] for key in self._sums}
