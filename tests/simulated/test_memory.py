"""docs/memory.md: the most that a train step holds on the card. Counted, so it is the same on every machine.

WRITE_MEMORY_TABLE=1 writes the table anew; without it the test fails where a number is off by more than 2 %.
"""
from __future__ import annotations

import gc
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import posttrain
import pytest
import world
from comfyui_version import __version__ as HOST
from simulated_card import device
from world import BACKPROP, RAW, TRAINERS, World

TABLE = Path(posttrain.__path__[0]) / "docs" / "memory.md"
HEAD = f"""# Memory of a train step

## Where memory runs out

The batch is a wish. A rollout or a train step for which memory does not suffice goes on in another way, with the same samples,
the same random numbers and the same mean over them. In this order, each only where the one before was not enough:

1. what the step does not need is moved off the card (a text encoder, a reward's network);
2. the activations of half of the network's blocks are recomputed: half a forward more; then of all, as with *low memory*
   switched on: a whole one;
3. half of the images go through the network at once, then half of those, down to one: one forward more again;
4. half of the network's weights, then all, stay in RAM and are streamed in.

The gradient is that of the whole batch up to rounding, for every trainer (`tests/unit/trainers/policy/test_fitting.py`). What it
took is said once, on the node and in the log, and the run remembers it, also after a resume: later rollouts go through the
network in the same parts, so that the first ratio is 1 again. Only in the iteration in which memory ran out in the update itself
does the ratio differ by rounding. Where nothing is left, the error says what to lower: batch, image size, low memory. The VAE of a
rollout is the host's to fit, in tiles where it must; through the reward it decodes one image at a time from the second remedy on.

## For a card of some size

Train's last widget, *card*, gives up from the start what the tries above would find out, by what share of the card the model's
weights take. Reckoned, not measured on cards of these sizes; where it does not suffice the run gives up more by itself.

| weights of the card | recomputed | images at once | weights in RAM | why |
|---|---|---|---|---|
| up to 25 % | no | as asked | 0 % | three quarters of the card are free: nothing needs to be given up |
| up to 50 % | yes | 4 | 0 % | half of the card is free: recomputed, a block's activations at a time are held, of four images |
| up to 80 % | yes | 1 | 0 % | a fifth of the card or more is free: one image at once |
| up to 125 % | yes | 1 | 50 % | the weights alone fill the card: half of them are streamed, so that half of it is free |
| more | yes | 1 | 100 % | the weights are larger than the card: all of them are streamed |

## Measured

The most that is held on the card at once in a train step of two images (32 x 32 pixels, guidance on), for the small
random-weight models of the tests, in KiB: all of it, and how much of it is the frozen weights of the network and, for
trainers through the reward, of the VAE. A real model has a thousand times the weights; the proportions between trainers,
and what low memory and partial loading save, carry over. The first step on an architecture is left out. Counted on the simulated
card, on ComfyUI {HOST}, and held by `tests/simulated/test_memory.py`, which also writes this page (`WRITE_MEMORY_TABLE=1`).

Whole: all weights are on the card. Streamed: none are, each layer is uploaded when it is asked; newer hosts keep buffers for that
from one layer to the next.

| trainer | architecture | weights are | in | peak | peak, low memory | weights |
|---|---|---|---|---|---|---|
"""
HELD = 0.02


def rows():
    """(trainer, architecture, placement, type): every trainer once, every architecture in every way with one trainer."""
    named = {trainer.__name__: trainer for trainer in TRAINERS}
    found = [(name, "sd3", "whole", "fp32") for name in named]
    found += [("NFT", kind, placement, dtype) for kind in world.small_models.ARCHITECTURES
              for placement in ("whole", "streamed") for dtype in ("fp32", "fp8")]
    return list(dict.fromkeys(found))


@cache
def know(kind: str) -> None:
    """A first step on an architecture finds out whether it writes in place, and holds more than later ones for it."""
    there, trainer = World(kind, "fp32"), next(t for t in TRAINERS if t.__name__ == "NFT")
    with world.placed(there, "whole", 0):
        world.train_step(there.policy, *world.made_for(there, trainer), world.Trainer(world.settings_of(trainer, there.policy), RAW))


def peak(name: str, kind: str, placement: str, dtype: str, low: bool) -> tuple[int, int]:
    """(most KiB held in the step, KiB of weights)"""
    trainer, there = next(t for t in TRAINERS if t.__name__ == name), World(kind, dtype)
    through = trainer in BACKPROP
    made = None if through else world.made_for(there, trainer)
    know(kind)
    with world.placed(there, placement, int(there.vae_size * 1.1) if through else 0):
        gc.collect()
        device.reset()
        start = device.counts()["now"]
        optimizer = replace(RAW, low_memory=low)
        if through:
            world.step(there, trainer, optimizer)
        else:
            world.train_step(there.policy, *made, world.Trainer(world.settings_of(trainer, there.policy), optimizer))
        most = device.counts()["peak"] - start
    return most // 1024, (there.size + (there.vae_size if through else 0)) // 1024


def written() -> dict[tuple, list[int]]:
    cells = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in TABLE.read_text(encoding="utf-8").splitlines()
             if line.startswith("| ") and not line.startswith("| trainer") and line.count("|") == 8]
    return {tuple(row[:4]): [int(cell.replace(",", "")) for cell in row[4:]] for row in cells}


def is_documented_host() -> bool:
    return TABLE.read_text(encoding="utf-8").startswith(HEAD)


@pytest.fixture(scope="module")
def table() -> dict[tuple, list[int]]:
    if os.environ.get("WRITE_MEMORY_TABLE"):
        write()
    return written()


@cache
def write() -> None:
    """Once in a process: a test that is run alone sets up the module's fixtures anew."""
    measured = {row: [peak(*row, False)[0], *peak(*row, True)] for row in rows()}
    lines = [f"| {' | '.join(row)} | {' | '.join(f'{n:,}' for n in numbers)} |\n" for row, numbers in measured.items()]
    TABLE.write_text(HEAD + "".join(lines), encoding="utf-8")


@pytest.mark.sweep
@pytest.mark.parametrize("row", rows(), ids="-".join)
def test_the_table_is_true(table, row):
    plain, low, weights = table[row]
    measured = [peak(*row, False), peak(*row, True)]
    assert [size for _, size in measured] == [weights, weights]
    if row[2] == "streamed" and not is_documented_host():
        whole = table[row[0], row[1], "whole", row[3]]
        assert [most < limit for (most, _), limit in zip(measured, whole)] == [True, True], "streaming saves nothing"
        return
    assert [most for most, _ in measured] == [pytest.approx(plain, rel=HELD), pytest.approx(low, rel=HELD)]


def test_the_table_has_these_rows_and_no_others(table):
    assert list(table) == rows()
    assert is_documented_host() or os.environ.get("POSTTRAIN_OTHER_HOST"), "write docs/memory.md anew"
    assert all(low <= plain + 2 for plain, low, _ in table.values()), "low memory needs no more"


def test_streaming_saves_memory_with_and_without_recomputed_activations(table):
    """A frozen layer keeps none of the weights that were uploaded for it, neither those of float32 nor the cast ones of fp8."""
    for kind in world.small_models.ARCHITECTURES:
        for dtype in ("fp32", "fp8"):
            streamed, whole = table["NFT", kind, "streamed", dtype], table["NFT", kind, "whole", dtype]
            assert streamed[0] < whole[0] and streamed[1] < whole[1], (kind, dtype)


@pytest.mark.parametrize("name, kind, placement, dtype", [("FlowGRPO", "sd3", "whole", "bf16"), ("NFT", "lumina", "streamed", "fp32"),
                                                          ("DiffusionDPO", "sdxl", "whole", "fp8"), ("DRaFT", "sd3", "whole", "fp32")])
def test_a_dry_run_tells_what_a_larger_batch_needs(name, kind, placement, dtype):
    """Within 15 %, from two and four images at once."""
    from posttrain.nodes.loop.estimate import estimate

    trainer, there = next(t for t in TRAINERS if t.__name__ == name), World(kind, dtype)
    sampling = replace(world.sampling_for(world.settings_of(trainer, there.policy)), images_per_prompt=4, batch_size=8)
    with world.placed(there, placement, int(there.vae_size * 1.1) if trainer in BACKPROP else 0):
        settings = world.Trainer(world.settings_of(trainer, there.policy), RAW)
        found = estimate(there.policy, there.prompts, there.vae, sampling, settings, world.Smooth())
        policy = world.step(there, trainer)  # a second step, with the moments that the first one leaves
        made = None if trainer in BACKPROP else there.roll(images_per_prompt=4, batch_size=8)
        world.host.unload_all()
        gc.collect()
        device.reset()
        start = device.counts()["now"]
        if made is None:
            world.backprop_step(policy, there.prompts, there.vae, world.Smooth(), sampling, settings)
        else:
            feedback = world.feedback_for(settings.settings, made)
            world.train_step(policy, made, feedback, settings)
        assert found.bytes == pytest.approx(device.counts()["peak"] - start, rel=0.15)
