"""Every architecture that the host knows, on the card: whole, partly loaded, streamed from RAM, and with activations recomputed, in
every type of weight; against the CPU.

A rollout and a step of one trainer each, in one of the ways and types, dealt round; with POSTTRAIN_ALL=1 of every trainer in each of
the ways (4,000 cases, two hours). docs/models.md says what that was; write it anew with

    POSTTRAIN_ALL=1 POSTTRAIN_WRITE_DOCS=1 python develop.py test tests/simulated/test_architectures.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import comfy.model_management as management
import posttrain
import pytest
import small_models
import torch
import world
from architectures import HERE, small_vae_of
from comfyui_version import __version__ as HOST
from host_sampler import sampled
from posttrain.trainers.add import ADD
from posttrain.trainers.d3po import D3PO
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.dpok import DPOK
from posttrain.trainers.kto import KTO
from posttrain.trainers.nft import NFT
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.spo import SPO
from simulated_card import host
from world import BACKPROP, RAW, TOLERANCE, TRAINERS, TYPES, World

PAGE = Path(posttrain.__path__[0]) / "docs" / "models.md"
CARD = "\n## On a card\n"
# way -> (where the weights are, low memory)
WAYS = {
    "whole": ("whole", False),
    "partly loaded": ("partly", False),
    "streamed from RAM": ("streamed", False),
    "whole, low memory switched on": ("whole", True),
}
FLAGS = ("--highvram", "--novram", "--disable-async-offload")
HALF = tuple(dtype for dtype in TYPES if dtype != "fp32")
NEAR = (DiffusionDPO, D3PO, KTO, SPO)  # far from the reference their losses are flat
JUDGES = (ADD, DPOK)  # they learn from features of the network
done: dict[str, set[tuple[str, type]]] = {way: set() for way in WAYS}  # (architecture, trainer) that passed, in this process


def cases(rounds: int):
    """(architecture, way, type of the weights, trainer), in float32 where the card holds all. Each round adds another trainer in another
    type to each architecture in each way, so that three of them show it all types and as many as there are trainers every trainer."""
    return [
        (
            name,
            way,
            HALF[(number + turn + deal) % len(HALF)] if turn else "fp32",
            TRAINERS[(number + 7 * turn + 5 * deal) % len(TRAINERS)],
        )
        for deal in range(rounds)
        for number, name in enumerate(HERE)
        for turn, way in enumerate(WAYS)
    ]


EVERYTHING = bool(os.environ.get("POSTTRAIN_ALL"))
CASES = (
    cases(len(TRAINERS))
    if EVERYTHING
    else [case for place, case in enumerate(cases(1)) if (place // len(WAYS) - place) % len(WAYS) == 0]
)


class Here(World):
    """A world of this architecture, its latents as small as the table of the host tests has them."""

    def __init__(self, name: str, trainer: type, dtype: str, card: bool = True):
        policy = small_models.trained_policy(name, *TYPES[dtype], scale=0.0 if trainer in NEAR else 0.05)
        for key, value in {
            "kind": name,
            "dtype": dtype,
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


def on_the_cpu(name: str, trainer: type, dtype: str):
    """(rollout, feedback, policy after the step)"""
    there = Here(name, trainer, dtype, card=False)
    lesson = drawn_by(there, trainer)
    return *lesson, step(there, trainer, lesson)


def gradient(policy) -> torch.Tensor:
    """Of every layer that this input reaches."""
    return torch.cat([value.flatten() for key, value in sorted(policy.optimizer.items()) if key.endswith(".exp_avg")])


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert bool(found.isfinite().all()) and float(expected.norm()) > 0
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name, way, dtype, trainer", CASES, ids=["-".join((*case[:3], case[3].__name__)) for case in CASES])
def test_a_rollout_and_a_step_are_the_cpus(name, way, dtype, trainer):
    try:
        assert_the_cpus(name, way, dtype, trainer)
    except ValueError as refusal:
        words = str(refusal)
        if "so no features can be taken from it" in words:
            assert trainer in JUDGES and not has_judges(name)
        else:
            assert words.startswith("model: ") and "; use a model" in words
            assert name in refused_by_the_table() or not is_documented_host()
            return
    except (RuntimeError, TypeError) as error:
        assert str(error) == error_of_the_host(name, dtype, WAYS[way][0])
    done[way].add((name, trainer))


def assert_the_cpus(name, way, dtype, trainer):
    there, (placement, low) = Here(name, trainer, dtype), WAYS[way]
    *lesson, expected = on_the_cpu(name, trainer, dtype)
    made = lesson[0]
    before = there.bits()
    # beside the network, the VAE must be whole where the reward's gradient passes through it, for which hosts ask a tenth more
    beside = int(there.vae_size * 1.15) + there.size // 8 if trainer in BACKPROP else 0
    with world.placed(there, placement, reserve=beside):
        drawn, _ = drawn_by(there, trainer)
        new = step(there, trainer, lesson, low)
        whole = there.policy.model.loaded_size() == there.size
        assert whole == (placement == "whole") or (whole and beside - there.vae_size > there.size // 2)
    assert off(drawn.latents, made.latents) < TOLERANCE[dtype]
    assert float((drawn.images - made.images).abs().max()) < 2 * TOLERANCE[dtype]
    assert new.metrics["updates"] and not new.metrics["skipped_updates"]
    assert not new.optimizer.keys() ^ expected.optimizer.keys(), "layers that this input does not reach"
    assert off(gradient(new), gradient(expected)) < TOLERANCE[dtype]
    assert not host.strays(new) and not host.strays(drawn)
    after = there.bits()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.skipif(not EVERYTHING, reason="with POSTTRAIN_ALL=1 alone; test_trainers has every trainer under each flag")
@pytest.mark.parametrize(
    "name, flag, dtype, trainer",
    [
        pytest.param(
            name,
            flag,
            [*TYPES][(number + turn) % 4],
            TRAINERS[(5 * number + 7 * turn) % len(TRAINERS)],
            marks=pytest.mark.card(flag),
        )
        for turn, flag in enumerate(FLAGS)
        for number, name in enumerate(HERE)
    ],
)
def test_a_step_under_the_hosts_flags_is_the_cpus(name, flag, dtype, trainer):
    try:
        there = Here(name, trainer, dtype)
        *lesson, expected = on_the_cpu(name, trainer, dtype)
        new = step(there, trainer, lesson)
    except (ValueError, RuntimeError, TypeError) as error:
        words = str(error)
        told = "; use a model" in words or "so no features can be taken from it" in words
        assert told or words == error_of_the_host(name, dtype, "streamed" if flag == "--novram" else "whole")
        return
    assert off(gradient(new), gradient(expected)) < TOLERANCE[dtype] and not host.strays(new)
    assert there.policy.model.loaded_size() == (0 if flag == "--novram" else there.size)
    host.unload_all()


@pytest.mark.skipif(not hasattr(management, "STREAM_CAST_BUFFERS"), reason="this ComfyUI streams no weights through buffers")
@pytest.mark.parametrize("name", HERE)
def test_a_step_after_a_sampling_is_the_cpus_where_weights_are_streamed(name):
    """Autograd does not notice when the next layer's weights come into a buffer that a sampling has made."""
    try:
        there = Here(name, NFT, "fp32")
    except ValueError as refusal:
        assert "; use a model" in str(refusal)
        return
    *lesson, expected = on_the_cpu(name, NFT, "fp32")
    try:
        with world.placed(there, "streamed"):
            sampled(there.policy.model, name, 2.0)
            new = step(there, NFT, lesson)
    except RuntimeError as error:
        assert str(error) == error_of_the_host(name, "fp32", "streamed")
        return
    assert off(gradient(new), gradient(expected)) < TOLERANCE["fp32"]


def error_of_the_host(name: str, dtype: str, placement: str) -> str:
    """What the host says where it can itself neither build nor sample this model in this type and place, or nothing."""
    try:
        there = Here(name, TRAINERS[0], dtype)
        with world.placed(there, placement):
            sampled(there.policy.model, name, 2.0)
    except (RuntimeError, TypeError) as error:
        return str(error)
    return ""


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
    every = {
        way: [name for name in HERE if all((name, trainer) in found for trainer in TRAINERS)] for way, found in passed.items()
    }
    lines = [f"- {way}, a step of every trainer: {_all_but(names)}" for way, names in every.items()]
    return (
        f"{CARD}\nWritten by tests/simulated/test_architectures.py. A rollout and a step on the simulated card: its pictures and its "
        "gradient are\nthe CPU's, and the model is what it was. Whole in float32, else in float16, bfloat16 and fp8, dealt round. ADD "
        "and DPOK refuse, in\nwords, what has no *yes* under judges. What is left free for the VAE of a video model can hold all of its "
        "small network.\n\n" + "\n".join(lines) + "\n\nThe trainers: " + ", ".join(t.__name__ for t in TRAINERS) + ".\n"
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
