"""How often the host waits for the card in a train step: once an update, and once for each batch of pictures that is judged. It
does not wait for what it uploads in a micro-batch either."""

from __future__ import annotations

from dataclasses import replace

import pytest
import world
from simulated_card import device
from uploads import Uploads
from world import BACKPROP, RAW, TRAINERS, World

ONE = 1  # in a batch; of a pair trainer, one pair
UPLOADS = {"DGPO": 2}  # that wait, in a micro-batch: its loss is told the groups on the CPU


def waits() -> int:
    """Numbers read by the host and copies to it."""
    counts = device.counts()
    return counts["syncs"] + counts["to_host"]


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.__name__)
def test_nobody_waits_in_a_micro_batch(monkeypatch, trainer):
    """In float16, whose gradients are scaled, and with activations recomputed. The first look at whether every layer is
    reached, and what is read once an update, lie before the first call of progress and after the last."""
    there, optimizer, seen, uploaded, uploads = World("sd3", "fp16"), replace(RAW, low_memory=True), [], [], Uploads()
    settings = world.settings_of(trainer, there.policy)
    monkeypatch.setattr(world, "SAMPLING", replace(world.SAMPLING, batch_size=ONE))
    given = world.Trainer(settings, optimizer)
    device.reset()

    def look(*_):
        seen.append(waits())
        uploaded.append(uploads.count)

    if trainer in BACKPROP:
        reward, sampling = world.Smooth(), world.sampling_for(settings)
        world.backprop_step(there.policy, there.prompts, there.vae, reward, sampling, given, progress=look)
        pictures = 8 if trainer.__name__ == "SRPO" else 4
        assert 0 < seen[-1] - seen[0] <= pictures
    else:
        made, feedback = world.made_for(there, trainer)
        with uploads:
            world.train_step(there.policy, replace(made, batch_size=ONE), feedback, given, progress=look)
        assert len(seen) > 1 and seen[-1] == seen[0]
        assert uploaded[-1] - uploaded[0] == UPLOADS.get(trainer.__name__, 0) * (len(seen) - 1)
