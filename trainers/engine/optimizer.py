"""AdamW, what surrounds it, and the weights that it moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..policy.network import Network
from ..policy.value import Bank
from .limits import ABOVE_0, BELOW_1, FROM_0, FROM_1


@dataclass(frozen=True)
class Optimizer:
    """AdamW (arXiv:1711.05101) and what surrounds it.

    learning_rate: after warm-up; weight_decay; max_grad_norm: gradients are scaled down to this norm (0: never);
    warmup: optimizer steps in which the rate rises from 0; decay: optimizer steps after which it has fallen, on a
    line, to a tenth (0: it stays); average: decay of the running mean of the weights, approached as
    min(average, (1 + n) / (10 + n)) (0: none is kept, an older one is dropped); updates: optimizer steps per rollout;
    low_memory: drop activations and recompute them, one more forward per micro-batch; epsilon: AdamW's, which gradients much
    smaller than it do not get past.
    """

    LIMITS: ClassVar[dict] = {
        "learning_rate": FROM_0,
        "weight_decay": FROM_0,
        "max_grad_norm": FROM_0,
        "warmup": FROM_0.of("warmup steps"),
        "decay": FROM_0.of("decay steps"),
        "average": BELOW_1.of("averaging"),
        "updates": FROM_1.of("updates per rollout"),
        "epsilon": ABOVE_0.of("Adam epsilon"),
    }
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


class Learner:
    """Weights in training, with the AdamW that moves them."""

    def __init__(self, net: Network, weights: Bank, moments: Bank, step: int, settings: Optimizer):
        self.bank, self.step, self.settings = net.to_device(weights, train=True), step, settings
        self.unchecked = step == 0  # whether the loss reaches every weight
        self.adam = torch.optim.AdamW(
            list(self.bank.values()),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
        moments = net.to_device(moments)
        for key, weight in self.bank.items():
            if f"{key}.exp_avg" in moments:
                self.adam.state[weight] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": moments[f"{key}.exp_avg"],
                    "exp_avg_sq": moments[f"{key}.exp_avg_sq"],
                }

    def norm(self) -> torch.Tensor | float:
        """[]: of the whole gradient; NaN where there is none."""
        found = self._gradients()
        if not found:
            return math.nan
        if found[0].device.type != "cpu":
            return torch.stack(torch._foreach_norm(found)).norm()
        # in float64: there the last digit of a float32 sum is not the same in every run
        return torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in found]).norm().float()

    def move(self, norm: float) -> None:
        """One step, with a gradient of this norm, which is at most the largest allowed in it."""
        if 0 < self.settings.max_grad_norm < norm:
            with_gradient = [weight for weight in self.bank.values() if weight.grad is not None]
            shorter = torch._foreach_mul(self._gradients(), self.settings.max_grad_norm / norm)
            for weight, gradient in zip(with_gradient, shorter):
                weight.grad = gradient
        self.adam.param_groups[0]["lr"] = self.settings.rate(self.step)
        self.adam.step()
        self.step += 1

    def _gradients(self) -> list[torch.Tensor]:
        return [weight.grad for weight in self.bank.values() if weight.grad is not None]

    def moments(self) -> Bank:
        return {
            f"{key}.{name}": self.adam.state[weight][name].detach().cpu()
            for key, weight in self.bank.items()
            for name in ("exp_avg", "exp_avg_sq")
            if weight in self.adam.state
        }
