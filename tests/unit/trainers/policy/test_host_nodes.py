"""Every node of the host that changes a MODEL: the policy switched off answers as KSampler does, or it is refused by name.

docs/patches.md has the table; after a change here or in the host write it anew with

    POSTTRAIN_WRITE_DOCS=1 python develop.py test tests/unit/trainers/policy/test_host_nodes.py
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import torch._dynamo
from comfyui_version import __version__ as HOST
from host_nodes import NeedsAFile, apply, model_nodes
from host_sampler import Sampled, answers, difference, policy_of, sampled
from posttrain.trainers.policy import open_policy
from small_models import prompts_for, small_model

PAGE = Path(__file__).resolve().parents[4] / "docs" / "patches.md"
KINDS = {"unet": "SD1.5, SDXL", "sd3": "SD3", "flux": "Flux", "lumina": "Lumina 2"}
STEPS = {1.0: 1, 3.0: 2}  # sampling steps by guidance scale
GUIDANCES = tuple(STEPS)
ROUNDING = 1e-5
SETTINGS = ("default", "least", "most")
HEAD = f"""# What nodes put on a model

Every node of ComfyUI {HOST} that takes a MODEL and returns one, on small instances of four kinds of models: what the
policy answers when it is switched off, beside what KSampler answers with the same model, noise, noise levels and prompt, at
guidance 1 and 3. Written by tests/unit/trainers/policy/test_host_nodes.py.

- **equal**: the same numbers (to 1e-5), the same again when asked twice, and a gradient in every trained layer.
- **no effect**: equal too, but so is the model without the node: it does nothing to this kind of model.
- **weights**: the node changes weights alone, which is the same for every kind; compared on the first.
- **refused**: said in words, before anything is trained.
- **fails**: the node or KSampler itself raises on this kind of model.
- **needs a file**: no file is at hand in the tests; what loaders put on a model are weights or patches as above.

| node | {' | '.join(KINDS.values())} | refused because |
|---|{'---|' * len(KINDS)}---|
"""


@pytest.fixture(autouse=True)
def not_compiled():
    """What is compiled answers the same; compiling takes minutes."""
    with torch._dynamo.config.patch(disable=True):
        yield


@dataclass(frozen=True)
class Row:
    node: str
    cells: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        return f"| {self.node} | {' | '.join(self.cells)} | {self.note} |"


@cache
def row_of(name: str) -> Row:
    cells, note = [], ""
    for kind in KINDS:
        cell = "weights" if "weights" in cells else cell_of(name, kind)
        if cell.startswith("model: "):
            cell, note = "refused", cell.removeprefix("model: ")
        cells.append(cell)
    return Row(name, tuple(cells), note)


def cell_of(name: str, kind: str) -> str:
    model, runs = None, []
    for setting in SETTINGS:
        try:
            tried = apply(model_nodes()[name], kind, setting)
            if only_weights(tried):
                return compared(tried, kind, [run_of(tried, kind, GUIDANCES[-1])])
            found = [run_of(tried, kind, guidance) for guidance in GUIDANCES]
        except NeedsAFile:
            return "needs a file"
        except Exception:  # whatever a node raises in the host is the host's
            continue
        if model is None or has_effect(kind, found):
            model, runs = tried, found
        if has_effect(kind, found):
            break
    return "fails" if model is None else compared(model, kind, runs)


def has_effect(kind: str, runs: list[Sampled]) -> bool:
    """Beyond rounding: some processors round otherwise where the numbers lie elsewhere in memory."""
    pairs = [(host.latents, plain(kind, guidance, len(host.latents)).latents) for guidance, host in zip(GUIDANCES[-len(runs):], runs)]
    return any(float((host - without).abs().max()) > ROUNDING * float(without.abs().max()) for host, without in pairs)


def run_of(model, kind: str, guidance: float) -> Sampled:
    """Some nodes can do one image only."""
    try:
        return sampled(model, kind, guidance, STEPS[guidance])
    except Exception:
        return sampled(model, kind, guidance, STEPS[guidance], batch=1)


def compared(model, kind: str, runs: list[Sampled]) -> str:
    for guidance, host in zip(GUIDANCES[-len(runs):], runs):
        try:
            error = difference(answers(model, kind, guidance, host), host)
        except ValueError as refusal:
            return str(refusal)
        if only_weights(model) and not error:
            return "weights"
        if error > ROUNDING:
            return f"differs by {error:.1e} at guidance {guidance:g}"
    if not has_effect(kind, runs):
        return "no effect"
    return trained_through(model, kind, runs[-1]) or "equal"


@cache
def plain(kind: str, guidance: float, batch: int) -> Sampled:
    return sampled(small_model(kind), kind, guidance, STEPS[guidance], batch)


def only_weights(model) -> bool:
    options = {k: v for k, v in model.model_options.items() if v}
    return bool(model.patches) and not (options or model.object_patches or model.wrappers or model.callbacks)


def trained_through(model, kind: str, host: Sampled) -> str:
    """"" where every trained layer gets a gradient; else what is wrong."""
    step, policy = host.steps[0], policy_of(model)
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)

        def loss():
            return net.denoise(step.x, step.sigma, prompts_for(kind), [0] * len(step.x), GUIDANCES[-1], bank,
                               schedule=host.sigmas).square().mean(), {}

        net.gradients(loss, list(bank.values()))
    without = [key for key, leaf in bank.items() if key.endswith("lora_B")
               and (leaf.grad is None or not leaf.grad.isfinite().all() or not leaf.grad.any())]
    return f"differs: no gradient in {without[0]} and {len(without) - 1} more" if without else ""


def documented() -> dict[str, str]:
    """node -> its line of the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ") and "| node |" not in line}


def is_documented_host() -> bool:
    return PAGE.is_file() and PAGE.read_text(encoding="utf-8").startswith(HEAD)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", documented())
def test_a_node_of_the_page(name, kind):
    if name not in model_nodes():
        assert not is_documented_host(), "this host has no such node any more: write docs/patches.md anew"
        return
    written = dict(zip(KINDS, documented()[name].strip("| ").split(" | ")[1:]))
    # once it changes weights alone, the page does so for all kinds that follow
    first = next((each for each, cell in written.items() if cell == "weights"), kind) if written[kind] == "weights" else kind
    cell, _, note = cell_of(name, first).partition(": ")
    assert not cell.startswith("differs"), cell
    if is_documented_host():
        told = "refused" if cell == "model" else cell
        assert (told, note in documented()[name]) == (written[kind], True), "write docs/patches.md anew"


def test_every_node_of_the_host_is_on_the_page():
    if os.environ.get("POSTTRAIN_WRITE_DOCS"):
        PAGE.write_text(HEAD + "\n".join(str(row_of(name)) for name in sorted(model_nodes())) + "\n", encoding="utf-8")
    if is_documented_host():
        assert documented().keys() == model_nodes().keys(), "write docs/patches.md anew"
    rows = [row_of(name) for name in model_nodes().keys() - documented().keys()]
    assert not [row for row in rows if any(cell.startswith("differs") for cell in row.cells)]
