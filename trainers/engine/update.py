"""One train step's optimizer work: micro-batches, accumulation, clipping, AdamW, warm-up, running mean.

Every trainer comes through here; it differs by what ``evaluate`` computes for a micro-batch.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ...rewards.base import ranks
from ...rewards.base.words import brief
from ..policy.fitting import in_room
from ..policy.network import Network
from ..policy.room import Room, with_room
from ..policy.value import Bank, Guest, Policy
from .optimizer import Learner, Optimizer
from .reach import check_reach

SKIPPED = "skipped_updates_in_a_row"
HALF = (torch.float16, torch.bfloat16)
FIRST = 100  # optimizer steps in which it is measured whether the LoRA is large enough to show


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
    train, which ``evaluate`` then gets as a fourth argument; guests: frozen ones. What memory took is in its memory. An update
    whose gradient overflowed in float16 is made again with smaller ones.
    """
    shares = [(sum(micro.size for micro in micros), ranks.own_part(micros)) for micros in steps]
    total, before = sum(len(part) for _, part in shares), int(policy.metrics.get(SKIPPED, 0))

    def made(net: Network) -> Policy:
        reports, skipped, in_a_row, norms, done = _Mean(), 0, before, [], 0
        net.recomputing_blocks(optimizer.low_memory)
        average = None if not optimizer.average else net.to_device(policy.ema or policy.bank)
        net.headroom.of_run(policy.memory)
        own = Learner(net, policy.bank, policy.optimizer, policy.step, optimizer)
        learners = [own] if beside is None else [own, _beside(net, policy, beside)]

        for size, part in shares:
            def passed(number: int, before: int = done) -> None:
                (progress or _nobody)(before + number, total)

            found, told = _gradients(net, learners, evaluate, size, part, passed)
            while _overflowed(found, len(learners)) and net.headroom.more():
                _forget(learners)
                found, told = _gradients(net, learners, evaluate, size, part, passed)
            done += len(part)
            for report, weight in told:
                reports.add(report, weight)
            if all(ranks.met("losses", all(map(math.isfinite, found)))):
                for learner, norm in zip(learners, found):
                    learner.move(norm)
                in_a_row = 0
                norms.append(found[0])
                _running_mean(average, own.bank, optimizer.average, own.step)
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
            _forget(learners)
        metrics = reports.means() | {
            "grad_norm": sum(norms) / len(norms) if norms else float("nan"), "updates": len(norms),
            "skipped_updates": skipped, SKIPPED: in_a_row, "learning_rate": optimizer.rate(max(0, own.step - 1)),
            "update_evaluations": ranks.total("evaluations", net.evaluations)}
        if 0 < len(steps) < optimizer.updates:
            metrics |= {"updates_left_out": optimizer.updates - len(steps)}
        if net.dtype in HALF and policy.step < FIRST:
            metrics |= {"lora_shows": net.share_shown(own.bank)}
        kept = {} if beside is None else _kept(beside.name, learners[1])
        bank, moments, ema = _to_ram(own.bank), own.moments(), None if average is None else _to_ram(average)
        if not _finite(bank, moments, ema or {}, *kept.values()):
            # a step that ends in no number is none: the policy of before it is kept, with its moments
            return replace(policy, metrics=metrics | {"updates": 0, "skipped_updates": len(steps), SKIPPED: before + len(steps)})
        return replace(policy, bank=bank, ema=ema, anchors={**policy.anchors, **kept}, optimizer=moments, step=own.step,
                       metrics=metrics, memory=net.headroom.remembered(policy.memory))

    return _remembering(*in_room(policy, made, also_load=also_load, guests=guests))


def _gradients(net: Network, learners: list[Learner], evaluate: Evaluate, size: int, part: Sequence[Micro],
               passed: Callable[[int], None]) -> tuple[list[float], list[tuple[dict, int]]]:
    """Leaves in the learners' weights the gradient of these micro-batches, of ``size`` samples on all ranks.

    passed(n) is told after each of them. Returns the norm of each learner's and then the losses; and what to report, by size.
    """
    losses, told = [], []
    banks, leaves = _of_all(learners)
    for number, micro in enumerate(part, 1):
        net.check_cancelled()
        share = micro.size / size
        loss, report = net.gradients(lambda: _weighted(evaluate(net, banks[0], micro, *banks[1:]), share), leaves)
        if learners[0].unchecked:
            check_reach(banks[0], lambda: evaluate(net, banks[0], micro, *banks[1:])[0])
            learners[0].unchecked = False
        told.append((report | {"loss": loss / share}, micro.size))
        losses.append(loss)
        passed(number)
    ranks.add_gradients("gradients", leaves)
    # the update's one wait for the device
    return on_host([*(learner.norm() for learner in learners), *losses]), told


def _overflowed(found: list[float], learners: int) -> bool:
    """Whether gradients, of which found holds the norms before the losses, are no numbers though the losses of all ranks are."""
    if all(map(math.isfinite, found[:learners])):
        return False
    return all(ranks.met("finite losses", all(map(math.isfinite, found[learners:]))))


def _forget(learners: list[Learner]) -> None:
    for learner in learners:
        learner.adam.zero_grad(set_to_none=True)


def _of_all(learners: list[Learner]) -> tuple[list[Bank], list[torch.Tensor]]:
    return [learner.bank for learner in learners], [weight for learner in learners for weight in learner.bank.values()]


def _nobody(done: int, total: int) -> None:
    """Who is told of the progress where nobody asked."""


def _remembering(policy: Policy, room: Room) -> Policy:
    return replace(policy, memory=with_room(policy.memory, room))


def _beside(net: Network, policy: Policy, beside: Beside) -> Learner:
    weights, moments = (policy.anchors.get(name) for name in _names(beside.name))
    if weights is None:
        return Learner(net, beside.start(net), {}, 0, beside.optimizer)
    return Learner(net, weights, moments, int(moments["step"]), beside.optimizer)


def _kept(name: str, learner: Learner) -> dict[str, Bank]:
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
