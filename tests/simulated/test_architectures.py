"""Every architecture that the host knows, on the card: whole, partly loaded, and with activations recomputed; against the CPU.

A step of one kind of trainer each, and in one of the ways, dealt round; with POSTTRAIN_ALL=1 in all of them. docs/models.md says
in which; write that anew with

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
from posttrain.trainers.sampling.settings import Sampling
from simulated_card import host
from world import BACKPROP, RAW, TRAINERS, World

PAGE = Path(posttrain.__path__[0]) / "docs" / "models.md"
CARD = "\n## On a card\n"
# way -> (where the weights are, low memory)
WAYS = {"whole": ("whole", False), "partly loaded": ("partly", False), "whole, low memory switched on": ("whole", True)}
KINDS = ("by likelihood", "NFT", "DiffusionDPO", "DRaFT")
done: dict[str, list[str]] = {way: [] for way in WAYS}  # the architectures that passed, in this process


def cases(everything: bool):
    """(architecture, way, kind of trainer)"""
    return [
        (name, way, KINDS[(number + turn) % len(KINDS)])
        for number, name in enumerate(HERE)
        for turn, way in enumerate(WAYS)
        if everything or turn == number % len(WAYS)
    ]


CASES = cases(bool(os.environ.get("POSTTRAIN_ALL")))


class Here(World):
    """A world of this architecture, its latents as small as the table of the host tests has them."""

    def __init__(self, name: str, kind: str, card: bool = True):
        # far from the reference the loss of Diffusion-DPO is flat
        policy = small_models.trained_policy(name, scale=0.0 if kind == "DiffusionDPO" else 0.05)
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


@cache
def is_flow(name: str) -> bool:
    from posttrain.trainers.policy.levels import path_of

    return path_of(small_models.small_model(name).get_model_object("model_sampling")).name == "flow"


def trainer_of(kind: str, name: str) -> type:
    called = ("FlowGRPO" if is_flow(name) else "DDPO") if kind == "by likelihood" else kind
    return next(t for t in TRAINERS if t.__name__ == called)


def step(there: Here, trainer: type, made, low: bool = False):
    settings = world.Trainer(world.settings_of(trainer, there.policy), replace(RAW, low_memory=low))
    if trainer in BACKPROP:
        return world.backprop_step(there.policy, there.prompts, there.vae, world.Smooth(), there.sampling, settings)[0]
    return world.train_step(there.policy, made, world.feedback_for(settings.settings, made), settings)


@cache
def on_the_cpu(name: str, kind: str):
    """(rollout, policy after the step)"""
    there = Here(name, kind, card=False)
    made = world.rollout(there.policy, there.prompts, there.vae, there.sampling, 0)
    return made, step(there, trainer_of(kind, name), made)


def gradient(policy) -> torch.Tensor:
    """Of every layer that this input reaches."""
    return torch.cat([value.flatten() for key, value in sorted(policy.optimizer.items()) if key.endswith(".exp_avg")])


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert bool(found.isfinite().all()) and float(expected.norm()) > 0
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name, way, kind", CASES, ids=["-".join(case) for case in CASES])
def test_a_rollout_and_a_step_are_the_cpus(name, way, kind):
    try:
        there = Here(name, kind)
    except ValueError as refusal:
        assert str(refusal).startswith("model: ") and "; use a model" in str(refusal)
        assert name in refused_by_the_table() or not is_documented_host()
        return
    trainer, (placement, low) = trainer_of(kind, name), WAYS[way]
    made, expected = on_the_cpu(name, kind)
    before = there.bits()
    # beside the network, the VAE must be whole where the reward's gradient passes through it
    with world.placed(there, placement, reserve=int(there.vae_size * 1.1) if trainer in BACKPROP else 0):
        drawn = world.rollout(there.policy, there.prompts, there.vae, there.sampling, 0)
        new = step(there, trainer, made, low)
        assert (there.policy.model.loaded_size() < there.size) == (placement == "partly")
    assert off(drawn.latents, made.latents) < 1e-3 and float((drawn.images - made.images).abs().max()) < 2e-3
    assert new.metrics["updates"] and not new.metrics["skipped_updates"]
    assert not new.optimizer.keys() ^ expected.optimizer.keys(), "layers that this input does not reach"
    assert off(gradient(new), gradient(expected)) < 1e-3
    assert not host.strays(new) and not host.strays(drawn)
    after = there.bits()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    done[way].append(name)


def is_documented_host() -> bool:
    return f"ComfyUI {HOST}," in PAGE.read_text(encoding="utf-8")


def refused_by_the_table() -> set[str]:
    rows = [line.removeprefix("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return {row[0] for row in rows if "refused" in row}


def section(passed: dict[str, list[str]]) -> str:
    """What docs/models.md says about it."""
    lines = [f"- {way}: {_all_but([name for name in HERE if name not in names])}" for way, names in passed.items()]
    return (
        f"{CARD}\nWritten by tests/simulated/test_architectures.py. A rollout and a step of Flow-GRPO or DDPO, DiffusionNFT, "
        "Diffusion-DPO and\nDRaFT-1 in turn, on the simulated card, in float32: its pictures and its gradient are the CPU's, "
        "and the model is what it was.\n\n" + "\n".join(lines) + "\n"
    )


def _all_but(names: list[str]) -> str:
    return "all architectures of the table" + (f" but {', '.join(names)}" if names else "")


def test_the_page_says_what_is_run():
    if not is_documented_host():
        pytest.skip(f"the page is about another host than {HOST}")
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("POSTTRAIN_WRITE_DOCS") and len(CASES) == len(HERE) * len(WAYS):
        PAGE.write_text(text.partition(CARD)[0] + section(done), encoding="utf-8")
    trained = [name for name in HERE if name not in refused_by_the_table()]
    assert PAGE.read_text(encoding="utf-8").endswith(section(dict.fromkeys(WAYS, trained)))
