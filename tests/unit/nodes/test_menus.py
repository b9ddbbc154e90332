"""Menus: a choice that a saved workflow may hold does not vanish, and each rule does what its name says."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.nodes.feedback.advantages import PTAdvantages
from posttrain.nodes.feedback.preferences import PTLabels, PTPreferences
from posttrain.rewards.base.reward import Scores
from posttrain.tools.host import ROOT

KNOWN = Path(__file__).with_name("menus.json")


def menus() -> dict[str, list[str]]:
    """node.input -> its choices. Left out: menus of the host, and lists of this machine's files, which hold "auto" or "none"."""
    found = {}
    for name, node in NODE_CLASS_MAPPINGS.items():
        for inputs in (node.INPUT_TYPES().get(kind, {}) for kind in ("required", "optional")):
            for key, (choices, *_) in inputs.items():
                files = isinstance(choices, list) and {"auto", "none"} & set(choices)
                if isinstance(choices, (list, tuple)) and key not in ("scheduler", "sampler") and not files:
                    found[f"{name}.{key}"] = [str(choice) for choice in choices]
    return found


def test_every_menu_has_the_choices_that_saved_workflows_know():
    """Where a choice was added on purpose, add it to menus.json; one that was there must stay."""
    assert menus() == json.loads(KNOWN.read_text(encoding="utf-8"))


NAMES = {  # of models, methods, formats and units, which are the same in every language
    "8 GB", "12 GB", "16 GB", "24 GB", "48 GB", "CLIP", "CLIPScore", "ComfyUI", "Forge, A1111, InvokeAI (kohya's names)", "HPSv2",
    "HPSv2.1", "Inception (FID, KID)", "LAION v1", "LAION v2", "LoHa", "LoKr", "LoRA", "OFT", "PickScore", "Qwen-Image-Edit",
    "Qwen-Image-Edit 2509 and later", "SigLIP", "VQAScore", "ViT (differentiable)", "bfloat16", "dance_sde", "ddim", "float16",
    "float32", "flow_cps", "flow_sde", "ghuber", "huber", "kB", "kaiming", "open_nsfw (onnx)", "rsLoRA", "v2.5 (SigLIP)"}  # fmt: skip


def test_every_choice_has_its_chinese():
    said = {}
    for name, start in (("chinese_menus.js", "MENUS = {"), ("chinese.js", "goals: {")):
        words = (ROOT / "web" / name).read_text(encoding="utf-8").split(start)[1].split("}")[0]
        said |= {quoted or plain: text for quoted, plain, text in re.findall(r'(?:"([^"]+)"|(\w+)): "([^"]+)"', words)}
    there = {choice for choices in menus().values() for choice in choices} | {"auto"}
    assert there - said.keys() == NAMES and said.keys() - there == set()


def scores(values, groups) -> Scores:
    return Scores(torch.tensor(values, dtype=torch.float64), torch.tensor(groups), {"a": torch.tensor(values)}, {"a": 1.0})


# rewards 0, 1, 5 of one prompt and 2, 4 of another; population std: of the batch 1.8547, of the groups 2.1602 and 1
ADVANTAGES = {
    "group mean, global std": [-1.0783, -0.5391, 1.6174, -0.5391, 0.5391],
    "group mean, group std": [-0.9258, -0.4629, 1.3887, -0.9999, 0.9999],
    "leave one out": [-3, -1.5, 4.5, -2, 2],
    "no std": [-2, -1, 3, -1, 1],
    "each reward in its group": [-0.9258, -0.4629, 1.3887, -0.9999, 0.9999],
    "per-prompt memory": [-1.2940, -0.7548, 1.4018, -0.2157, 0.8627],
    "batch": [-1.2940, -0.7548, 1.4018, -0.2157, 0.8627],
}
PAIRS = {"best and worst": {(2, 0), (4, 3)}, "all pairs": {(1, 0), (2, 0), (2, 1), (4, 3)},
         "above and below": {(1, 0), (2, 0)}}
LABELS = {"group mean": {0: False, 1: False, 2: True, 3: False, 4: True},
          "threshold": {0: False, 1: True, 2: True, 3: True, 4: True}}
FIVE = ([0.0, 1.0, 5.0, 2.0, 4.0], [0, 0, 0, 1, 1])


def choices(node, key):
    return list(node.INPUT_TYPES()["required"][key][0])


def test_the_tables_below_hold_every_rule():
    assert choices(PTAdvantages, "rule") == list(ADVANTAGES)
    assert choices(PTPreferences, "pairs") == list(PAIRS) and choices(PTLabels, "rule") == list(LABELS)


@pytest.mark.parametrize("rule", ADVANTAGES)
def test_each_advantage_rule(rule):
    class Remembers:
        memory: dict = {}

    found, = PTAdvantages().run(scores(*FIVE), rule, 5.0, Remembers())
    assert found.values.tolist() == pytest.approx(ADVANTAGES[rule], abs=2e-4)


@pytest.mark.parametrize("rule", PAIRS)
def test_each_pair_rule(rule):
    found, count = PTPreferences().run(scores(*FIVE), rule, 0.0, 0.5)["result"]
    assert set(zip(found.winner.tolist(), found.loser.tolist())) == PAIRS[rule] and count == len(PAIRS[rule])


@pytest.mark.parametrize("rule", LABELS)
def test_each_label_rule(rule):
    found, _, _ = PTLabels().run(scores(*FIVE), rule, 0.5)["result"]
    assert dict(zip(found.index.tolist(), found.desirable.tolist())) == LABELS[rule]
