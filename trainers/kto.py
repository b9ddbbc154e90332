"""Diffusion-KTO (arXiv:2404.04465): learns from single images with a thumb up or down."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from .engine.cost import Train, Work
from .engine.limits import BELOW_1, FROM_0, FROM_1
from .engine.renoise import Noised, Renoised, noised, with_empty_prompt
from .engine.update import Number, Optimizer, numbers, update
from .feedback.labels import Labels
from .losses.kto import kto_loss, reference_point
from .policy.network import Network
from .policy.uploads import uploaded
from .policy.value import Bank, Policy
from .sampling.rollout import Rollout

USUAL_BETA = {"eps": 1000.0, "v": 20.0, "flow": 20.0}  # v as flow: see diffusion_dpo.py


@dataclass(frozen=True)
class KTO:
    """Diffusion-KTO (arXiv:2404.04465).

    beta: sharpness, without the 1/2 of Diffusion-DPO; 0: the usual value for the model, see USUAL_BETA. levels: noise
    levels per image. balance: weigh the rarer thumb more, so that ups and downs count alike. empty_prompts: the share of
    images that are learned without their prompt.
    """

    LIMITS: ClassVar[dict] = {"beta": FROM_0, "levels": FROM_1, "empty_prompts": BELOW_1}
    beta: float = 0.0
    levels: int = 4
    balance: bool = True
    empty_prompts: float = 0.0


class ReferencePoints:
    """z of each optimizer step, over all of its micro-batches together, and the reference's answers on the way.

    Where a step has several micro-batches, z costs one evaluation without gradient more of all but the first.
    """

    def __init__(self, rollout: Rollout, steps: list[list[Noised]]):
        self._rollout = rollout
        self._mates = {id(micro): micros for micros in steps for micro in micros}
        self._step: list[Noised] | None = None
        self._z = torch.tensor(0.0)
        self._references: dict[int, torch.Tensor] = {}

    def of(self, net: Network, bank: Bank, micro: Noised, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(z, the reference's answers to this micro-batch); error: the policy's own errors of it."""
        micros = self._mates[id(micro)]
        if self._step is not micros:
            self._references, errors, reference_errors = {}, [], []
            for mate in micros:
                renoised = Renoised(net, self._rollout, mate)
                self._references[id(mate)] = renoised.ask_quietly(None)
                reference_errors.append(renoised.error(self._references[id(mate)]))
                errors.append(error.detach() if mate is micro else renoised.error(renoised.ask_quietly(bank)))
            self._z = reference_point(torch.cat(errors), torch.cat(reference_errors))
            self._step = micros  # not before here: a pass that memory does not suffice for begins anew
        return self._z, self._references[id(micro)]


def train_kto(policy: Policy, rollout: Rollout, labels: Labels, settings: KTO, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """A Diffusion-KTO step. Evaluations per image and level: 1 with gradient, 1 of the reference, see ReferencePoints."""
    count = len(rollout.index)
    used, up = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    used[labels.index], up[labels.index] = True, labels.desirable
    weights = _weights(labels.desirable, settings.balance)
    rollout = with_empty_prompt(rollout, settings.empty_prompts)
    steps = noised(rollout, used, settings.levels, optimizer.updates, rollout.batch_size,
                   empty_prompts=settings.empty_prompts)
    points = ReferencePoints(rollout, steps)

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        x0 = renoised.ask(bank)
        error = renoised.error(x0)
        z, reference = points.of(net, bank, micro, error)
        reference_error, good = renoised.error(reference), up[micro.rows]
        beta = settings.beta or USUAL_BETA[net.path.name]
        out = kto_loss(error, reference_error, uploaded(good, net.device), z, beta, *weights)
        return out.loss, (_numbers(out, good, error, reference_error)
                          | numbers(reference_point=z, kl=renoised.distance(x0, reference).mean()))

    return update(policy, steps, evaluate, optimizer, progress=progress)


def _weights(desirable: torch.Tensor, balance: bool) -> tuple[float, float]:
    """Of a thumb up and of a thumb down; the weighted batch has the size of the plain one."""
    ups, downs = float(desirable.sum()), float((~desirable).sum())
    if not (balance and ups and downs):
        return 1.0, 1.0
    return (ups + downs) / (2 * ups), (ups + downs) / (2 * downs)


def _numbers(out, good: torch.Tensor, error: torch.Tensor, reference_error: torch.Tensor) -> dict[str, Number]:
    """The errors of thumbs up and down apart, as the pair trainers name them; a kind that is missing is left out.

    good: [B] on the CPU, so that nobody waits for the device."""
    found = numbers(accuracy=out.accuracy)
    for name, chosen in (("winner", good), ("loser", ~good)):
        rows = uploaded(chosen.nonzero().flatten(), error.device)
        if len(rows):
            change = (error - reference_error)[rows].mean()
            found |= numbers(**{f"{name}_error": error[rows].mean(), f"{name}_change": change})
    return found


def kto_cost(settings: KTO, work: Work) -> Train:
    """The reference of each, and for the reference point the policy once more of all micro-batches but an update's first."""
    gradient, further = work.noised(settings.levels, 2)
    return gradient, further - work.first_batches
