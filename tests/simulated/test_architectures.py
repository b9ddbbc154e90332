"""Every architecture that the host knows, on the card: whole, partly loaded, and with activations recomputed; against the CPU.

A rollout and a step of one trainer each, in one of the ways, dealt round; with POSTTRAIN_ALL=1 of every trainer whole on the card,
and of one in each of the other ways. docs/models.md says what that was; write it anew with

    POSTTRAIN_ALL=1 POSTTRAIN_WRITE_DOCS=1 python develop.py test tests/simulated/test_architectures.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import posttrain
import pytest
import small_models
import torch
import world
from architectures import HERE, small_vae_of
from comfyui_version import __version__ as HOST
from posttrain.trainers.add import ADD
from posttrain.trainers.d3po import D3PO
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.dpok import DPOK
from posttrain.trainers.kto import KTO
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.spo import SPO
from simulated_card import host
from world import BACKPROP, RAW, TRAINERS, World

PAGE = Path(posttrain.__path__[0]) / "docs" / "models.md"
CARD = "\n## On a card\n"
# way -> (where the weights are, low memory)
WAYS = {"whole": ("whole", False), "partly loaded": ("partly", False), "whole, low memory switched on": ("whole", True)}
NEAR = (DiffusionDPO, D3PO, KTO, SPO)  # far from the reference their losses are flat
JUDGES = (ADD, DPOK)  # they learn from features of the network
done: dict[str, set[tuple[str, type]]] = {way: set() for way in WAYS}  # (architecture, trainer) that passed, in this process


def cases(everything: bool):
    """(architecture, way, trainer)"""
    whole, *others = WAYS
    dealt = [
        (name, way, TRAINERS[(number + 7 * turn) % len(TRAINERS)])
        for number, name in enumerate(HERE)
        for turn, way in enumerate(WAYS)
        if way in others and everything or turn == number % len(WAYS)
    ]
    return [
        *((name, whole, trainer) for name in HERE for trainer in TRAINERS if everything),
        *(case for case in dealt if not everything or case[1] != whole),
    ]


EVERYTHING = bool(os.environ.get("POSTTRAIN_ALL"))
CASES = cases(EVERYTHING)


class Here(World):
    """A world of this architecture, its latents as small as the table of the host tests has them."""

    def __init__(self, name: str, trainer: type, card: bool = True):
        policy = small_models.trained_policy(name, scale=0.0 if trainer in NEAR else 0.05)
        for key, value in {
            "kind": name,
            "card": card,
            "policy": policy,
            "vae": small_vae_of(name),
            "prompts": small_models.prompts_for(name),
        }.items():
            object.__setattr__(self, key, value)
        if card:
            host.on_card(self.policy.model)
            host.vae_on_card(self.vae)

    @property
    def sampling(self) -> Sampling:
        height, width = (size * self.vae.spacial_compression_decode() for size in small_models.SIZE[self.kind][-2:])
        return replace(world.SAMPLING, width=width, height=height, batch_size=4)


def step(there: Here, trainer: type, lesson, low: bool = False):
    settings = world.Trainer(world.settings_of(trainer, there.policy), replace(RAW, low_memory=low))
    if trainer in BACKPROP:
        return world.backprop_step(there.policy, there.prompts, there.vae, world.Smooth(), there.sampling, settings)[0]
    return world.train_step(there.policy, *lesson, settings)


def drawn_by(there: Here, trainer: type):
    """(rollout, feedback); where the trainer makes its own pictures, a rollout to look at and no feedback."""
    return (there.roll(), None) if trainer in BACKPROP else world.made_for(there, trainer)


@cache
def on_the_cpu(name: str, trainer: type):
    """(rollout, feedback, policy after the step)"""
    there = Here(name, trainer, card=False)
    lesson = drawn_by(there, trainer)
    return *lesson, step(there, trainer, lesson)


def gradient(policy) -> torch.Tensor:
    """Of every layer that this input reaches."""
    return torch.cat([value.flatten() for key, value in sorted(policy.optimizer.items()) if key.endswith(".exp_avg")])


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert bool(found.isfinite().all()) and float(expected.norm()) > 0
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name, way, trainer", CASES, ids=["-".join((*case[:2], case[2].__name__)) for case in CASES])
def test_a_rollout_and_a_step_are_the_cpus(name, way, trainer):
    try:
        there = Here(name, trainer)
    except ValueError as refusal:
        assert str(refusal).startswith("model: ") and "; use a model" in str(refusal)
        assert name in refused_by_the_table() or not is_documented_host()
        return
    placement, low = WAYS[way]
    try:
        *lesson, expected = on_the_cpu(name, trainer)
    except ValueError as refusal:
        assert "so no features can be taken from it" in str(refusal) and trainer in JUDGES and not has_judges(name)
        done[way].add((name, trainer))
        return
    made = lesson[0]
    before = there.bits()
    # beside the network, the VAE must be whole where the reward's gradient passes through it
    with world.placed(there, placement, reserve=int(there.vae_size * 1.1) if trainer in BACKPROP else 0):
        drawn, _ = drawn_by(there, trainer)
        new = step(there, trainer, lesson, low)
        assert (there.policy.model.loaded_size() < there.size) == (placement == "partly")
    assert off(drawn.latents, made.latents) < 1e-3 and float((drawn.images - made.images).abs().max()) < 2e-3
    assert new.metrics["updates"] and not new.metrics["skipped_updates"]
    assert not new.optimizer.keys() ^ expected.optimizer.keys(), "layers that this input does not reach"
    assert off(gradient(new), gradient(expected)) < 1e-3
    assert not host.strays(new) and not host.strays(drawn)
    after = there.bits()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    done[way].add((name, trainer))


def is_documented_host() -> bool:
    return f"ComfyUI {HOST}," in PAGE.read_text(encoding="utf-8")


def refused_by_the_table() -> set[str]:
    rows = [line.removeprefix("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return {row[0] for row in rows if "refused" in row}


def has_judges(name: str) -> bool:
    """By the page's column."""
    lines = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    place = lines[0].index("judges")
    return any(cells[place] == "yes" for cells in lines if cells[0] == f"| {name}")


def section(passed: dict[str, set[tuple[str, type]]]) -> str:
    """What docs/models.md says about it."""
    whole, *others = passed
    every = [name for name in HERE if all((name, trainer) in passed[whole] for trainer in TRAINERS)]
    lines = [f"- {whole}, a step of every trainer: {_all_but(every)}"]
    lines += [f"- {way}, a step of one of them: {_all_but([name for name, _ in passed[way]])}" for way in others]
    return (
        f"{CARD}\nWritten by tests/simulated/test_architectures.py. A rollout and a step on the simulated card, in float32: its "
        "pictures and\nits gradient are the CPU's, and the model is what it was. ADD and DPOK refuse, in words, what has no *yes* "
        "under judges.\n\n" + "\n".join(lines) + "\n\nThe trainers: " + ", ".join(t.__name__ for t in TRAINERS) + ".\n"
    )


def _all_but(names: list[str]) -> str:
    missing = [name for name in HERE if name not in names]
    return "all architectures of the table" + (f" but {', '.join(missing)}" if missing else "")


def test_the_page_says_what_is_run():
    if not is_documented_host():
        pytest.skip(f"the page is about another host than {HOST}")
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("POSTTRAIN_WRITE_DOCS") and EVERYTHING:
        PAGE.write_text(text.partition(CARD)[0] + section(done), encoding="utf-8")
    trained = {(name, trainer) for name in HERE if name not in refused_by_the_table() for trainer in TRAINERS}
    assert PAGE.read_text(encoding="utf-8").endswith(section(dict.fromkeys(WAYS, trained)))
