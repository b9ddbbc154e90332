"""An allocation that fails, at each place in turn: the step finds another way or ends in words, and nothing is changed or left."""
from __future__ import annotations

import gc
from collections import Counter

import pytest
import torch
import world
from simulated_card import device, host
from world import TRAINERS, World, gradient

PLACES = 8  # of each task; of a small task every one
WORDS = "switch on low memory"


def tasks():
    """name -> (architecture, what to do in a world)"""
    steps = {name: next(t for t in TRAINERS if t.__name__ == name) for name in ("FlowGRPO", "NFT", "DiffusionDPO", "SPO", "DRaFT")}
    found = {name: ("sd3", lambda there, t=t: world.step(there, t, reward=JUDGE)) for name, t in steps.items()}
    found["DDPO"] = ("sd15", lambda there: world.step(there, next(t for t in TRAINERS if t.__name__ == "DDPO")))
    found["rollout"] = ("sd3", lambda there: there.roll())
    found["decode"] = ("sd3", lambda there: world.to_images(there.policy.model, there.vae, torch.zeros(1, 16, 4, 4)))
    found["score"] = ("sd3", lambda there: JUDGE(torch.linspace(0, 1, 6144).reshape(2, 32, 32, 3), there.prompts.prompts))
    return found


JUDGE = world.demo_judge()


def fingerprint(answer) -> torch.Tensor:
    if hasattr(answer, "optimizer"):
        return gradient(answer)
    return (answer.images if hasattr(answer, "images") else answer).flatten().detach().cpu()


def settle() -> int:
    host.unload_all()
    gc.collect()
    return device.counts()["now"]


@pytest.mark.parametrize("name", tasks())
def test_every_allocation_may_fail(name):
    kind, run = tasks()[name]
    there = World(kind)
    held, before = settle(), there.bits()
    begun = device.counts()["pieces"]
    good = fingerprint(run(there))
    total = device.counts()["pieces"] - begun
    assert settle() == held
    seen = Counter()
    for place in range(1, total + 1, max(1, total // PLACES)):
        outcome = attempt(there, run, place, good)
        assert outcome in ("recovered", "in words"), f"allocation {place} of {total}: {outcome}"
        seen[outcome] += 1
        assert settle() == held, f"allocation {place} of {total} leaves {settle() - held} bytes on the card"
        after = there.bits()
        assert all(torch.equal(value, after[key]) for key, value in before.items()), f"allocation {place} changed the model"
        layers = there.policy.model.model.diffusion_model.modules()
        assert not any("forward" in vars(layer) for layer in layers), f"allocation {place} left the bank on the model"
    assert sum(seen.values()) >= min(PLACES, total)
    torch.testing.assert_close(fingerprint(run(there)), good)


def attempt(there, run, place: int, good: torch.Tensor) -> str:
    refused = device.counts()["refused"]
    try:
        with device.failing(place):
            found = fingerprint(run(there))
    except torch.cuda.OutOfMemoryError as error:
        return "in words" if WORDS in str(error) else f"raw: {error}"
    if device.counts()["refused"] == refused:
        return "the failure was not reached"
    return "recovered" if torch.allclose(found, good, rtol=1e-3, atol=1e-6) else "another result"


@pytest.mark.parametrize("share, said", [(0.5, "recomputes half of its activations"), (1.0, "as with low memory switched on")])
def test_a_step_too_large_for_the_card_goes_on_with_activations_recomputed(caplog, share, said):
    """Its weights fit, its activations do not: as many as must are recomputed, for the same gradient, and the log says so."""
    trainer, there = next(t for t in TRAINERS if t.__name__ == "NFT"), World("sd15")
    made = there.roll(images_per_prompt=8, batch_size=16, guidance=1.0)
    feedback = world.feedback_for(trainer(), made)

    def step(recompute: float = 0.0):
        policy = world.replace(there.policy, memory={"room": {"recompute": recompute}} if recompute else {})
        return world.train_step(policy, made, feedback, world.Trainer(trainer(), world.RAW))

    peaks = {}
    for less in (share - 0.5, share):
        held = settle()
        device.reset()
        expected = step(less)
        peaks[less] = device.counts()["peak"] - held
    assert peaks[share] < 0.95 * peaks[share - 0.5], peaks
    held = settle()
    with device.tight(held + sum(peaks.values()) // 2):
        new = step()
    assert said in caplog.text and new.memory["room"]["recompute"] == share
    torch.testing.assert_close(gradient(new), gradient(expected), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("before, enough", [({}, {"at_once": 1}), ({"at_once": 1, "in_ram": 0.5}, {"at_once": 1, "in_ram": 1.0})],
                         ids=["in parts", "streamed"])
def test_a_step_too_large_for_the_card_even_so_goes_on(before, enough):
    """In parts of the batch, and at last with the model in RAM: the same gradient, and the policy remembers what it took."""
    trainer, there = next(t for t in TRAINERS if t.__name__ == "NFT"), World("sd15")
    settings = world.settings_of(trainer, there.policy)
    made = there.roll(images_per_prompt=4, batch_size=8, guidance=1.0, width=64, height=64)
    feedback = world.feedback_for(settings, made)

    def step(**room):
        policy = world.replace(there.policy, memory={"room": {"recompute": True, **room}} if room else {})
        return world.train_step(policy, made, feedback, world.Trainer(settings, world.RAW))

    def peak(**room) -> int:
        held = settle()
        device.reset()
        step(**room)
        return device.counts()["peak"] - held

    expected, least, more = step(), peak(**enough), peak(recompute=True, **before)
    assert least < 0.95 * more, (least, more)
    held = settle()
    with device.tight(held + (least + more) // 2):
        new = step()
    room = new.memory["room"]
    assert room["recompute"] and 1 <= room["at_once"] <= 4 and room["in_ram"] == enough.get("in_ram", 0)
    torch.testing.assert_close(gradient(new), gradient(expected), rtol=1e-3, atol=1e-6)
    assert settle() == held
