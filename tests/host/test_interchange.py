"""LoRA files between ComfyUI and diffusers, family by family: each read by the other's own loader, on the same weights.

docs/interchange.md has the table; after a change here, in the export or in a library write it anew with

    POSTTRAIN_WRITE_DOCS=1 python develop.py test tests/host/test_interchange.py -k every_family
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from comfyui_version import __version__ as HOST

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
pytest.importorskip("comfy.ldm.chroma_radiance", reason="older hosts than those of the small architectures")
from posttrain.tests.unit.trainers.policy.diffusers_families import (  # noqa: E402
    TWINS,
    comfyui_model,
    diffusers_network,
    questions,
)
from posttrain.tests.unit.trainers.policy.diffusers_loras import (  # noqa: E402
    ALPHA,
    IN,
    OUT,
    RANK,
    Read,
    as_diffusers_makes_it_kohyas,
    as_pipeline_saves,
    create_policy_from,
    largest_error,
    read_by_peft,
    read_here,
    read_there,
    save_for_diffusers,
    save_for_peft,
    trained_policy_of,
    weights_of,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interchange.md"
GOAL = 1e-4
JUDGES = (  # the tests that need nothing but the libraries
    "tests/unit/trainers/noise/test_diffusers_steps.py",
    "tests/unit/trainers/policy/test_diffusers_levels.py",
    "tests/unit/trainers/policy/test_diffusers_networks.py",
    "tests/unit/trainers/policy/test_peft_layers.py",
    "tests/unit/rewards/rules/test_ocr.py",
    "tests/unit/rewards/learned/test_nsfw.py",
    "tests/unit/trainers/data/test_rows.py",
    "tests/host/test_interchange.py::test_which_libraries_are_judged",
)
A_NUMBER = re.compile(r"1e-\d+")
COLUMNS = ("family", "diffusers' class", "same network", *OUT, *IN)
LIBRARIES = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("diffusers", "peft"))
HEAD = f"""# LoRA files and the rest of the field

What diffusers makes of a LoRA from here, and ComfyUI {HOST} of one from there: the same small network in both, with the same
weights, and the file through each one's own loader. Written by tests/host/test_interchange.py with {LIBRARIES}.

- **same network**: the largest difference between the two networks' answers to what ComfyUI's sampler hands its network,
  without a LoRA, as a share of the largest answer.
- **{", ".join(OUT)}**: the LoRA of a policy on attention and feed-forward layers as Save LoRA writes it, read by
  `load_lora_weights` of the family's pipeline, peft's folder by peft.
- **{", ".join(IN)}**: a LoRA of diffusers' network by peft, with alpha {ALPHA:g} at
  rank {RANK} (kohya's with alpha = rank), read by Create Policy as the beginning of a policy. ComfyUI's own LoraLoader reads fewer of
  them, and takes an alpha that is in the metadata alone to be the rank: to draw with such a file elsewhere, save the policy.

A number is the largest difference to ComfyUI's own answer with the LoRA, as a share of what the LoRA changes, rounded up.
**refused**: Save LoRA says so and what is possible; **no**: the reader refuses the file; **nothing**: it takes none of it and
says no word; **in part**: of some layers, or in another strength. Why is below.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
"""
NO_LOADER = ("PixArt alpha", "PixArt sigma")
NO_NAMES = "ComfyUI has no table of diffusers' names for it, or one of another network; diffusers converts what is named elsewhere here"
CHROMAS = "ComfyUI has no name for its distilled_guidance_layer; a policy that leaves it out is read, see the tests"
LUMINA = (
    "diffusers' converter cuts its fused layers at the published model's width, which the small one has not; refused in words"
)
# (column, families): why it is not read, in words
REASONS = {
    "ComfyUI's names": {
        "diffusers' loader knows ComfyUI's names of other networks, not of this one": (
            "SD1.5",
            "SD2",
            "SDXL",
            "SD3, SD3.5",
            "AuraFlow",
        ),
        'its loader wants every name to hold "lora", and the strength (alpha) has one without': ("HiDream",),
        "its loader takes ComfyUI's names and no strength (alpha) beside them": ("Flux.2", "Z-Image"),
        "its loader knows Flux in ComfyUI's names by one trainer's form of them alone": ("Flux", "Chroma"),
        "its loader wants all of a block's layers, and no strength (alpha) beside them": ("Lumina 2",),
        "diffusers has no loader of LoRAs for it; peft reads it": ("PixArt alpha", "PixArt sigma"),
    },
    "kohya's names": {
        "diffusers has no converter of kohya's names for it, and says no word; save for diffusers": (
            "SD3, SD3.5",
            "AuraFlow",
            "HiDream",
            "Lumina 2",
        ),
        "its converter of kohya's names cuts fused layers at the published model's width, which the small one has not": (
            "Flux",
            "Chroma",
        ),
        "diffusers has no loader of LoRAs for it; peft reads it": NO_LOADER,
    },
    "diffusers' names": {
        NO_NAMES: ("Flux.2", "Lumina 2", "Wan 2.1"),
        CHROMAS: ("Chroma",),
        "diffusers has no loader of LoRAs for it; peft reads it": NO_LOADER,
    },
    "peft's folder": {NO_NAMES: ("Flux.2", "Lumina 2", "Wan 2.1"), CHROMAS: ("Chroma",)},
    "as its pipeline saves it": {
        LUMINA: ("Lumina 2",),
        "diffusers saves no LoRA of it; peft does": NO_LOADER,
    },
    "as peft saves it": {LUMINA: ("Lumina 2",)},
    "under kohya's names": {LUMINA: ("Lumina 2",)},
}


def in_words(read: Read) -> str:
    if read.refused:
        return "no"
    if read.error <= GOAL:
        return f"1e-{-math.ceil(math.log10(max(read.error, 1e-9)))}"
    return "nothing" if abs(read.error - 1) < 1e-3 else "in part"


@cache
def cells_of(name: str) -> tuple[str, ...]:
    twin = TWINS[name]
    model = comfyui_model(twin)
    asked = questions(model, twin)
    same = largest_error(diffusers_network(twin, weights_of(model)), twin, asked)
    found = [in_words(Read(same / max(float(question.answer.abs().max()) for question in asked)))]
    found += [there(twin, save, read) for save, read in OUT.values()]
    for save in IN.values():
        with TemporaryDirectory() as folder:
            alpha = RANK if save is as_diffusers_makes_it_kohyas else ALPHA
            found.append(in_words(read_here(twin, save, Path(folder), alpha, create_policy_from)))
    return (name, twin.kind, *found)


def there(twin, save, read) -> str:
    """A policy's LoRA, saved here, read there."""
    policy = trained_policy_of(twin)
    with TemporaryDirectory() as folder:
        try:
            save(twin, policy, Path(folder))
        except ValueError as refusal:
            assert re.search("save for|possible are", str(refusal)), "no word of what is possible"
            return "refused"
        return in_words(read(twin, policy, Path(folder)))


def row_of(name: str) -> str:
    return f"| {' | '.join(cells_of(name))} |"


def reasons() -> str:
    lines = [f"- {column}: {', '.join(names)}: {why}." for column, each in REASONS.items() for why, names in each.items()]
    return "\nWhy not:\n\n" + "\n".join(lines) + "\n"


def is_documented_pair() -> bool:
    """Whether the page was written on this host, with these libraries."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    return f"ComfyUI {HOST} of" in page and f"with {LIBRARIES}." in page


@pytest.mark.parametrize("name", TWINS)
def test_a_family(name):
    """What is read is read to the goal, and what is not has a reason; the page says the same, up to the last digits."""
    cells = dict(zip(COLUMNS, cells_of(name)))
    assert A_NUMBER.fullmatch(cells["same network"])
    if not is_documented_pair() and not os.environ.get("POSTTRAIN_WRITE_DOCS"):
        pytest.skip("which of the files are read is known of the documented releases alone")
    unread = {column for column in (*OUT, *IN) if not A_NUMBER.fullmatch(cells[column])}
    assert unread == {column for column, each in REASONS.items() for names in each.values() if name in names}
    if is_documented_pair() and not os.environ.get("POSTTRAIN_WRITE_DOCS"):
        assert A_NUMBER.sub("#", row_of(name)) in A_NUMBER.sub("#", PAGE.read_text(encoding="utf-8")), "write the page anew"


def test_which_libraries_are_judged():
    print("with", LIBRARIES)
    assert diffusers.__version__ in LIBRARIES and peft.__version__ in LIBRARIES


def test_it_holds_at_the_lower_bounds():
    """Of all groups of pyproject.toml, in a Python of their own."""
    command = [sys.executable, "develop.py", "test", "--libraries", "lowest", "-q", "-s", *JUDGES]
    run = subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "with diffusers 0.37.0 and peft 0.17.0" in run.stdout and int(re.search(r"(\d+) passed", run.stdout)[1]) > 250


@pytest.mark.parametrize("name", TWINS)
def test_the_field_reads_the_bank_under_its_own_names(name, tmp_path):
    """Laid out as diffusers' converter of checkpoints does it: what an export to these tools should hold."""
    twin, targets = TWINS[name], "all linear layers and convolutions"
    policy = trained_policy_of(twin, targets)
    save_for_peft(twin, policy, tmp_path)
    assert read_by_peft(twin, policy, tmp_path).error <= GOAL
    if name not in NO_LOADER:
        save_for_diffusers(twin, policy, tmp_path)
        assert read_there(twin, policy, tmp_path).error <= GOAL


def test_chroma_is_read_without_the_layers_that_have_no_name(tmp_path):
    twin = TWINS["Chroma"]
    policy = trained_policy_of(twin, pattern=r"^(double|single)_blocks\.")
    for name in ("diffusers' names", "peft's folder"):
        save, read = OUT[name]
        save(twin, policy, tmp_path)
        assert read(twin, policy, tmp_path).error <= GOAL


def test_every_family_is_on_the_page():
    if os.environ.get("POSTTRAIN_WRITE_DOCS"):
        PAGE.write_text(HEAD + "\n".join(row_of(name) for name in TWINS) + "\n" + reasons(), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in TWINS)
    if is_documented_pair():
        assert page.startswith(HEAD) and page.endswith(reasons()) and page.count("\n| ") == len(TWINS) + 1


@pytest.mark.parametrize("name", ["SD3, SD3.5", "Qwen-Image"])
def test_an_alpha_that_is_only_in_the_metadata_is_lost_by_the_stock_loader(name, tmp_path):
    """As newer releases of diffusers save it: ComfyUI reads no metadata, and takes alpha to be the rank."""
    assert ALPHA != RANK
    read = read_here(TWINS[name], as_pipeline_saves, tmp_path, alpha=ALPHA)
    assert not read.refused and read.error > 0.1
