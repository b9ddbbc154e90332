"""Every trainer on the card: whole, partly loaded, streamed from RAM, in every type of weight, with the host's flags; against
the CPU."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import world
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.policy import Recipe, create_policy
from simulated_card import host
from world import BACKPROP, FLOW, RAW, TOLERANCE, TRAINERS, TYPES, World, gradient, on_cpu, placed

PLACEMENTS = ("whole", "partly", "streamed")
FLAGS = ("--highvram", "--novram", "--disable-async-offload")


def cases():
    """(architecture, trainer, placement, weights, low memory): each trainer in each placement, each architecture in each
    placement with one trainer of each kind; what is left is dealt round."""
    found = []
    for number, trainer in enumerate(TRAINERS):
        for turn, placement in enumerate(PLACEMENTS):
            found.append(("sd3", trainer, placement, list(TYPES)[(number + turn) % 4], bool((number + turn) % 2)))
    kinds = [k for k in world.small_models.ARCHITECTURES if k != "sd3"]
    samples = [next(t for t in TRAINERS if t.__name__ == name) for name in ("DDPO", "DiffusionDPO", "DRaFT")]
    for number, kind in enumerate(kinds):
        for turn, (trainer, placement) in enumerate((t, p) for t in samples for p in PLACEMENTS):
            found.append((kind, trainer, placement, list(TYPES)[(number + turn) % 4], bool((number + turn // 2) % 2)))
    return found


def named(case) -> str:
    kind, trainer, placement, dtype, low = case
    return f"{kind}-{trainer.__name__}-{placement}-{dtype}{'-low' if low else ''}"


def on_the_card(kind, trainer, placement, dtype, low):
    """The policy after the step that the CPU's ``on_cpu`` made, from the same rollout; nothing of it is left on the card."""
    made, feedback, _ = on_cpu(kind, dtype, trainer)
    there, optimizer = World(kind, dtype), replace(RAW, low_memory=low)
    before = there.bits()
    with placed(there, placement, reserve=int(there.vae_size * 1.1) if trainer in BACKPROP else 0):
        if trainer in BACKPROP:
            new = world.step(there, trainer, optimizer)
        else:
            new = world.train_step(there.policy, made, feedback, world.Trainer(world.settings_of(trainer, there.policy), optimizer))
        if placement != "whole":
            assert there.policy.model.loaded_size() < there.size, "the card was to be too small"
    assert not host.strays(new)
    after = there.bits()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    return new


def assert_equal_to_the_cpus(new, kind, trainer, dtype):
    expected, found = gradient(on_cpu(kind, dtype, trainer)[2]).float(), gradient(new).float()
    assert bool(found.isfinite().all()) and float(expected.norm()) > 0
    error = float((found - expected).norm() / expected.norm())
    assert error < TOLERANCE[dtype], f"relative error {error:.1e}"


@pytest.mark.sweep
@pytest.mark.parametrize("case", cases(), ids=named)
def test_a_step_is_the_cpus(case):
    kind, trainer, placement, dtype, low = case
    new = on_the_card(*case)
    assert new.metrics["updates"] and not new.metrics["skipped_updates"]
    assert_equal_to_the_cpus(new, kind, trainer, dtype)


def test_every_trainer_is_there():
    assert {case[1] for case in cases() if case[0] == "sd3"} == {*TRAINERS}
    assert {case[0] for case in cases()} == set(world.small_models.ARCHITECTURES)


@pytest.mark.sweep
@pytest.mark.parametrize("flag, trainer, dtype", [
    pytest.param(flag, trainer, list(TYPES)[(number + turn) % 4], marks=pytest.mark.card(flag), id=f"{flag[2:]}-{trainer.__name__}")
    for turn, flag in enumerate(FLAGS) for number, trainer in enumerate(TRAINERS)])
def test_a_step_under_the_hosts_flags(flag, trainer, dtype):
    import comfy.model_management as management
    there = World("sd3", dtype)
    made = on_cpu("sd3", dtype, trainer)[:2]
    new = world.step(there, trainer) if trainer in BACKPROP else world.train_step(
        there.policy, *made, world.Trainer(world.settings_of(trainer, there.policy), RAW))
    assert not host.strays(new)
    assert_equal_to_the_cpus(new, "sd3", trainer, dtype)
    loaded = there.policy.model.loaded_size()
    assert loaded == {"--novram": 0}.get(flag, there.size), f"{loaded} bytes of {there.size}"
    if flag == "--disable-async-offload":
        assert management.NUM_STREAMS <= 1
    host.unload_all()


@pytest.mark.parametrize("low", [False, True], ids=["", "low"])
@pytest.mark.parametrize("placement", PLACEMENTS[1:])
@pytest.mark.parametrize("name", ["FlowGRPO", "DRaFT"])
def test_a_step_after_the_hosts_own_sampling_is_the_cpus(name, placement, low):
    """Newer hosts stream weights through buffers that a sampling has made, and write the next layer's into them: autograd does
    not notice."""
    import comfy.model_management as management
    trainer, there = next(t for t in TRAINERS if t.__name__ == name), World("sd3")
    made, feedback, _ = on_cpu("sd3", "fp32", trainer)
    optimizer = replace(RAW, low_memory=low)
    # where the model has no room: some for the buffers, which the host keeps until the end of a workflow
    buffers = there.size // 4 if placement == "streamed" else 0
    with placed(there, placement, reserve=int(there.vae_size * 1.1) + buffers if trainer in BACKPROP else 0):
        world.sampled(there.policy.model)
        kept = getattr(management, "STREAM_CAST_BUFFERS", None)
        assert kept is None or kept and all(buffer.is_inference() for buffer in kept.values())
        new = world.step(there, trainer, optimizer) if trainer in BACKPROP else world.train_step(
            there.policy, made, feedback, world.Trainer(world.settings_of(trainer, there.policy), optimizer))
    assert_equal_to_the_cpus(new, "sd3", trainer, "fp32")


@pytest.mark.sweep
@pytest.mark.parametrize("kind", world.small_models.ARCHITECTURES)
@pytest.mark.parametrize("placement", PLACEMENTS[1:])
def test_a_gradient_passes_layers_in_ram_that_are_not_trained(kind, placement):
    """Attention alone is trained; DRaFT follows two steps back, through the first layer too."""
    found = []
    for card in (False, True):
        there = World(kind, card=card)
        policy = create_policy(there.policy.model, Recipe(rank=2, targets="attention"))
        settings = world.Trainer(DRaFT(steps=2), RAW)
        with placed(there, placement if card else "whole", reserve=int(there.vae_size * 1.1)):
            new, _ = world.backprop_step(policy, there.prompts, there.vae, world.Smooth(), world.SAMPLING, settings)
        found.append(gradient(new))
    assert float((found[1] - found[0]).norm() / found[0].norm()) < TOLERANCE["fp32"]


@pytest.mark.sweep
@pytest.mark.parametrize("kind", world.small_models.ARCHITECTURES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_first_ratio_is_exactly_one(kind, placement):
    """Rollout and update ask the same network in the same way, wherever its weights lie."""
    trainer = next(t for t in TRAINERS if t.__name__ == ("FlowGRPO" if kind in FLOW else "DDPO"))
    there = World(kind, list(TYPES)[(PLACEMENTS.index(placement) + len(kind)) % 4])
    with placed(there, placement):
        new = world.step(there, trainer, replace(RAW, learning_rate=0.0))
    assert new.metrics["ratio_largest_change"] == 0, new.metrics
