"""What only a card can show, on small models: exact first ratios, the CPU's gradients, no waits, memory given back."""

from __future__ import annotations

from dataclasses import replace

import card
import pytest
import torch
import world
from posttrain.trainers.policy import open_policy
from world import FLOW, RAW, TRAINERS, World, gradient, on_cpu

KINDS = ("sd3", "sdxl")
# kernels of a card add up in another order, in half precision with other roundings; a wrong gradient is at right angles
TOLERANCE = {"fp32": 0.01, "fp16": 0.1, "bf16": 0.25, "fp8": 0.25}


def trainer(name: str) -> type:
    return next(kind for kind in TRAINERS if kind.__name__ == name)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp8"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ratio_is_exactly_one(kind, dtype):
    """Rollout and update ask the same kernels in the same way."""
    there = World(kind, dtype)
    new = world.step(there, trainer("FlowGRPO" if kind in FLOW else "DDPO"), replace(RAW, learning_rate=0.0))
    assert new.metrics["updates"] and new.metrics["ratio_largest_change"] == 0, new.metrics


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind, name", [("sd3", "FlowGRPO"), ("sdxl", "DiffusionDPO")])
def test_the_gradient_is_the_cpus(kind, name, dtype):
    """Of the same rollout, which the CPU has made."""
    made, feedback, expected = on_cpu(kind, dtype, trainer(name))
    there = World(kind, dtype)
    settings = world.settings_of(trainer(name), there.policy)
    found = gradient(world.train_step(there.policy, made, feedback, world.Trainer(settings, RAW))).float()
    wanted = gradient(expected).float()
    assert bool(found.isfinite().all()) and float(wanted.norm()) > 0
    error = float((found - wanted).norm() / wanted.norm())
    assert error < TOLERANCE[dtype], f"relative error {error:.1e}"


def test_what_the_host_waits_for_is_counted():
    with card.waits() as count:
        x = torch.ones(4).to("cuda", non_blocking=True)
        assert count() == (0, 0)
        y = torch.ones(4).to("cuda") + x
        assert count() == (0, 1)
        assert float(y.sum()) == 8
        assert count()[0] >= 1 and count()[1] == 1


def test_nobody_reads_from_the_card_in_a_micro_batch(monkeypatch, record_property):
    """From the first micro-batch to the last; what is read once an update lies before and after them. Uploads are counted, for
    the page: they wait too."""
    there, seen = World("sd3", "fp16"), []
    monkeypatch.setattr(world, "SAMPLING", replace(world.SAMPLING, batch_size=1))
    made, feedback = world.made_for(there, trainer("FlowGRPO"))
    settings = world.Trainer(world.settings_of(trainer("FlowGRPO"), there.policy), RAW)
    with card.waits() as count:
        world.train_step(
            there.policy, replace(made, batch_size=1), feedback, settings, progress=lambda *_: seen.append(count())
        )
    (reads, uploads), micros = [last - first for first, last in zip(seen[0], seen[-1])], len(seen) - 1
    record_property("measured", f"{uploads / micros:.1f} uploads in a micro-batch wait for the card")
    assert micros > 1 and reads == 0, f"{reads / micros:.1f} reads in a micro-batch"
    assert uploads <= 10 * micros, "may only become fewer"


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_given_back_when_a_policy_is_closed(kind):
    there = World(kind, "bf16")
    gradient_of_one_answer(there, 0)  # what the libraries of a card set aside at their first use, they keep
    held = card.settled()
    gradient_of_one_answer(there, held)
    assert card.settled() == held


def gradient_of_one_answer(there: World, held: int) -> None:
    x = torch.randn(1, *world.small_models.SIZE[there.kind])
    with open_policy(there.policy) as net:
        bank = net.to_device(there.policy.bank, train=True)

        def loss():
            sigma = torch.full((1,), 0.5, device=net.device)
            return net.denoise(x.to(net.device), sigma, there.prompts, [0], 1.0, bank).square().mean(), {}

        net.gradients(loss, list(bank.values()))
        assert torch.cuda.memory_allocated() > held + there.size // 2, "the network was to be on the card"


@pytest.mark.parametrize("name", ["FlowGRPO", "NFT", "DiffusionDPO", "DRaFT"])
def test_memory_is_given_back_after_a_step(name):
    there = World("sd3", "bf16")
    world.step(there, trainer(name))
    held = card.settled()
    world.step(there, trainer(name))
    assert card.settled() == held


def test_a_step_too_large_for_the_card_goes_on_with_activations_recomputed():
    """On a card with room for the recomputed step and not for the plain one: the same gradient, and the run remembers why."""
    there = World("sd15")
    kind, side = trainer("NFT"), 32 if card.simulated() else 256  # a real card's memory comes in large pieces
    settings = world.settings_of(kind, there.policy)
    made = there.roll(images_per_prompt=8, batch_size=16, guidance=1.0, width=side, height=side)
    feedback = world.feedback_for(settings, made)

    def step(low: bool = False):
        return world.train_step(there.policy, made, feedback, world.Trainer(settings, replace(RAW, low_memory=low)))

    expected = step()  # the first one also finds out what the network does
    plain, low = card.peak(step), card.peak(lambda: step(True))
    assert plain - low > (0 if card.simulated() else 8 * card.PIECE), (plain, low)
    with card.tight((plain + low) // 2):
        new = step()
    assert new.memory["room"]["recompute"]
    error = float((gradient(new) - gradient(expected)).norm() / gradient(expected).norm())
    assert error < TOLERANCE["fp32"], f"relative error {error:.1e}"
