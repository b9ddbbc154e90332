"""One train step's optimizer work: micro-batches, accumulation, clipping, AdamW, warm-up, running mean.

Every trainer comes through here; it differs by what ``evaluate`` computes for a micro-batch.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch

from ...rewards.base import ranks
from ...rewards.base.words import brief
from ..policy.fitting import in_room
from ..policy.network import Network
from ..policy.room import Room, with_room
from ..policy.value import Bank, Guest, Policy
from .limits import ABOVE_0, BELOW_1, FROM_0, FROM_1
from .reach import check_reach

SKIPPED = "skipped_updates_in_a_row"
HALF = (torch.float16, torch.bfloat16)
FIRST = 100  # optimizer steps in which it is measured whether the LoRA is large enough to show


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

    LIMITS: ClassVar[dict] = {"learning_rate": FROM_0, "weight_decay": FROM_0, "max_grad_norm": FROM_0,
                              "warmup": FROM_0.of("warmup steps"), "decay": FROM_0.of("decay steps"),
                              "average": BELOW_1.of("averaging"), "updates": FROM_1.of("updates per rollout"),
                              "epsilon": ABOVE_0.of("Adam epsilon")}
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

    @property
    def size(self) -> int: ...


Number = float | torch.Tensor  # a tensor of one number is read once the step is over
# evaluate(net, bank, micro), and as a fourth the weights beside the policy's where there are any
Evaluate = Callable[..., tuple[torch.Tensor, dict[str, Number]]]


@dataclass(frozen=True)
class Beside:
    """Further weights that learn in the same updates, such as a discriminator's.

    name: under which the policy's anchors keep them, with their moments, so that a resume finds them; start(net): the
    weights before their first step; optimizer: their rate, decay and clipping.
    """

    name: str
    start: Callable[[Network], Bank]
    optimizer: Optimizer
    __repr__ = brief


def update(policy: Policy, steps: Sequence[Sequence[Micro]], evaluate: Evaluate, optimizer: Optimizer, *,
           progress: Callable[[int, int], None] | None = None, also_load: Sequence = (),
           beside: Beside | None = None, guests: Sequence[Guest] = ()) -> Policy:
    """A new policy after one optimizer step for each list of micro-batches in ``steps``.

    evaluate(net, bank, micro) returns the micro-batch's mean loss, with gradient, and numbers to report; losses are
    weighted by ``size``, so how a batch is cut does not change the result. An update whose loss or gradient is not
    finite is skipped and counted in the metrics, and weights that are not finite after an update are given up for those of
    before the whole step. also_load: ModelPatchers that ``evaluate`` needs beside the policy's; beside: further weights to
    train, which ``evaluate`` then gets as a fourth argument; guests: frozen ones. What memory took is in its memory.
    """
    shares = [(sum(micro.size for micro in micros), ranks.own_part(micros)) for micros in steps]
    total, before = sum(len(part) for _, part in shares), int(policy.metrics.get(SKIPPED, 0))

    def made(net: Network) -> Policy:
        reports, skipped, in_a_row, norms, done = _Mean(), 0, before, [], 0
        net.recomputing_blocks(optimizer.low_memory)
        average = None if not optimizer.average else net.to_device(policy.ema or policy.bank)
        own = _Learner(net, policy.bank, policy.optimizer, policy.step, optimizer)
        learners = [own] if beside is None else [own, _beside(net, policy, beside)]
        banks, leaves = _of_all(learners)
        for size, part in shares:
            losses = []
            for micro in part:
                net.check_cancelled()
                share = micro.size / size
                loss, report = net.gradients(lambda: _weighted(evaluate(net, banks[0], micro, *banks[1:]), share), leaves)
                if own.step == 0 and done == 0:
                    check_reach(own.bank, lambda: evaluate(net, banks[0], micro, *banks[1:])[0])
                reports.add(report | {"loss": loss / share}, micro.size)
                losses.append(loss)
                done += 1
                (progress or _nobody)(done, total)
            ranks.add_gradients("gradients", leaves)
            found = on_host([*(learner.norm() for learner in learners), *losses])  # the update's one wait for the device
            if all(ranks.met("losses", all(map(math.isfinite, found)))):
                for learner, norm in zip(learners, found):
                    learner.move(norm)
                in_a_row = 0
                norms.append(found[0])
                _running_mean(average, own.bank, optimizer.average, own.step)
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
            for learner in learners:
                learner.adam.zero_grad(set_to_none=True)
        metrics = reports.means() | {
            "grad_norm": sum(norms) / len(norms) if norms else float("nan"), "updates": len(norms),
            "skipped_updates": skipped, SKIPPED: in_a_row, "learning_rate": optimizer.rate(max(0, own.step - 1)),
            "update_evaluations": ranks.total("evaluations", net.evaluations)}
        if net.dtype in HALF and policy.step < FIRST:
            metrics |= {"lora_shows": net.share_shown(own.bank)}
        kept = {} if beside is None else _kept(beside.name, learners[1])
        bank, moments, ema = _to_ram(own.bank), own.moments(), None if average is None else _to_ram(average)
        if not _finite(bank, moments, ema or {}, *kept.values()):
            # a step that ends in no number is none: the policy of before it is kept, with its moments
            return replace(policy, metrics=metrics | {"updates": 0, "skipped_updates": len(steps), SKIPPED: before + len(steps)})
        return replace(policy, bank=bank, ema=ema, anchors={**policy.anchors, **kept}, optimizer=moments, step=own.step,
                       metrics=metrics)

    return _remembering(*in_room(policy, made, also_load=also_load, guests=guests))


def _of_all(learners: list[_Learner]) -> tuple[list[Bank], list[torch.Tensor]]:
    return [learner.bank for learner in learners], [weight for learner in learners for weight in learner.bank.values()]


def _nobody(done: int, total: int) -> None:
    """Who is told of the progress where nobody asked."""


def _remembering(policy: Policy, room: Room) -> Policy:
    return replace(policy, memory=with_room(policy.memory, room))


class _Learner:
    """Weights in training, with the AdamW that moves them."""

    def __init__(self, net: Network, weights: Bank, moments: Bank, step: int, settings: Optimizer):
        self.bank, self.step, self.settings = net.to_device(weights, train=True), step, settings
        self.adam = torch.optim.AdamW(list(self.bank.values()), lr=settings.learning_rate, betas=settings.betas,
                                      eps=settings.epsilon, weight_decay=settings.weight_decay)
        moments = net.to_device(moments)
        for key, weight in self.bank.items():
            if f"{key}.exp_avg" in moments:
                self.adam.state[weight] = {"step": torch.tensor(float(step)), "exp_avg": moments[f"{key}.exp_avg"],
                                           "exp_avg_sq": moments[f"{key}.exp_avg_sq"]}

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
        return {f"{key}.{name}": self.adam.state[weight][name].detach().cpu() for key, weight in self.bank.items()
                for name in ("exp_avg", "exp_avg_sq") if weight in self.adam.state}


def _beside(net: Network, policy: Policy, beside: Beside) -> _Learner:
    weights, moments = (policy.anchors.get(name) for name in _names(beside.name))
    if weights is None:
        return _Learner(net, beside.start(net), {}, 0, beside.optimizer)
    return _Learner(net, weights, moments, int(moments["step"]), beside.optimizer)


def _kept(name: str, learner: _Learner) -> dict[str, Bank]:
    weights, moments = _names(name)
    return {weights: _to_ram(learner.bank), moments: learner.moments() | {"step": torch.tensor(learner.step)}}


def _names(name: str) -> tuple[str, str]:
    return name, f"{name} moments"


def _weighted(answer: tuple[torch.Tensor, dict], share: float) -> tuple[torch.Tensor, dict]:
    loss, report = answer
    return loss * share, report


def _finite(*banks: Bank) -> bool:
    return all(bool(weight.isfinite().all()) for bank in banks for weight in bank.values())


def _to_ram(bank: Bank) -> Bank:
    return {key: weight.detach().cpu() for key, weight in bank.items()}


@torch.no_grad()
def _running_mean(average: Bank | None, bank: Bank, decay: float, step: int) -> None:
    if average is None:
        return
    d = min(decay, (1 + step) / (10 + step))
    for key, mean in average.items():
        mean.lerp_(bank[key], 1 - d)


def on_host(values: Sequence[Number]) -> list[float]:
    """The numbers, read from each device at once."""
    found = [value if isinstance(value, torch.Tensor) else torch.tensor(float(value)) for value in values]
    for device in {value.device for value in found}:
        places = [place for place, value in enumerate(found) if value.device == device]
        read = torch.stack([found[place].detach().float() for place in places]).cpu()
        for place, value in zip(places, read):
            found[place] = value
    return [float(value) for value in found]


class _Mean:
    """Means of reported numbers, weighted by size; a number counts where it was reported."""

    def __init__(self):
        self._numbers: list[tuple[str, Number, float]] = []

    def add(self, report: dict[str, Number], size: float) -> None:
        self._numbers += [(key, value, size) for key, value in report.items()]

    def means(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        sizes: dict[str, float] = {}
        read = zip(self._numbers, on_host([value for _, value, _ in self._numbers]))
        told = ranks.met("reports", [(key, value, size) for (key, _, size), value in read])
        for key, value, size in (each for rank in told for each in rank):
            sums[key] = sums.get(key, 0.0) + value * size
            sizes[key] = sizes.get(key, 0.0) + size
        return {key: total / sizes[key] for key, total in sums.items()}


def numbers(**values) -> dict[str, Number]:
    """A micro-batch's report; tensors of one number stay where they are."""
    return {key: value.detach() if isinstance(value, torch.Tensor) else float(value) for key, value in values.items()}
