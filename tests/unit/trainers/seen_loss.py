"""The loss of a micro-batch as a train step hands it to the optimizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from posttrain.trainers.engine.renoise import Noised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy.network import Network
from posttrain.trainers.policy.value import Bank, Policy


def loss_of(module, settings, policy: Policy, run, feedback, monkeypatch) -> tuple[Callable, list[list[Noised]]]:
    """(evaluate, the micro-batches of each update) of a train step that makes no update; module: the method's own."""
    seen = []

    def update(policy, steps, evaluate, optimizer, *, progress=None):
        seen.extend((evaluate, steps))
        return policy

    with monkeypatch.context() as patch:
        patch.setattr(module, "update", update)
        train_step(policy, run, feedback, Trainer(settings, Optimizer()))
    return seen[0], seen[1]


def moved(bank: Bank, seed: int, by: float = 0.02) -> Bank:
    """Other weights, a little away."""
    random = torch.Generator().manual_seed(seed)
    return {key: value + by * torch.randn(value.shape, generator=random) for key, value in bank.items()}


def same_loss(net: Network, bank: Bank, found: Callable, expected: Callable) -> dict[str, float]:
    """Both get the bank and give a loss, found with a report, which is given back: values and gradients are compared."""
    results = []
    for ask in (found, expected):
        leaves = net.to_device(bank, train=True)
        with torch.enable_grad():
            answer = ask(leaves)
            loss, report = answer if isinstance(answer, tuple) else (answer, None)
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        results.append((loss.detach(), torch.cat([g.flatten() for g in gradients]), report))
    (loss, gradient, report), (wanted, slope, _) = results
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))
    assert float(slope.abs().max()) > 0
    return report
