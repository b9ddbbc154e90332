"""The micro-batches that a train step really puts to the network."""

from __future__ import annotations

from posttrain.trainers.engine.renoise import Noised, Renoised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from small_models import trained_policy


def micros_of(module, settings, made, monkeypatch) -> list[Noised]:
    """module: the method's own; made: (rollout, feedback)."""
    seen = []

    class Seen(Renoised):
        def __init__(self, net, run, micro):
            seen.append(micro)
            super().__init__(net, run, micro)

    monkeypatch.setattr(module, "Renoised", Seen)
    train_step(trained_policy("sd3"), *made, Trainer(settings, Optimizer()))
    return seen
