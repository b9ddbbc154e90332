"""GenEval's words and those of detectors: one class under several names, and what nobody knows is said before the run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, check_prompts, score_rollout
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.composite.ensemble import Ensemble, Member
from posttrain.rewards.composite.formula import FormulaReward
from posttrain.rewards.rules.detectors import DetrDetector, plain, spellings
from posttrain.rewards.rules.objects import RuleReward

# the 80 classes of COCO, as GenEval writes them in its prompts' records
GENEVAL = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter,
bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator,
book, clock, vase, scissors, teddy bear, hair drier, toothbrush"""
NAMES = [name.strip() for name in GENEVAL.replace("\n", " ").split(",")]
COCO = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
# of models that keep the older names (the recommended RT-DETR among them)
OLDER = COCO | {
    "couch": "sofa",
    "tv": "tvmonitor",
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
}
WRITTEN = {"as they are": str, "capitals": str.title, "underscores": lambda name: name.replace(" ", "_")}


def detector(tmp_path, labels) -> DetrDetector:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels)), "model_type": "rt_detr"}))
    return DetrDetector(SimpleNamespace(), tmp_path)


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("names", [COCO, OLDER], ids=["coco", "older"])
def test_every_class_of_geneval_is_found_under_one_name_only(tmp_path, names, how):
    labels = [WRITTEN[how](names.get(name, name)) for name in NAMES]
    known = detector(tmp_path, labels)
    known.check(NAMES)
    assert len(set(NAMES)) == 80
    for name, label in zip(NAMES, labels):
        assert [each for each in labels if plain(each) in spellings(name)] == [label]


def prompts(*specs) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"prompt {number}", {"tag": "", "include": list(spec)}) for number, spec in enumerate(specs))


GOOD = {"class": "cat", "count": 1}
BAD = [
    ({"class": "unicorn", "count": 1}, "does not know 'unicorn'"),
    ({"class": "cat", "count": 0}, "whole number"),
    ({"class": "cat", "count": 1, "color": "red"}, "colour of 'cat'"),
    ({"class": "cat", "count": 1, "color": "mauve"}, "must be one of red"),
    ({"class": 5, "count": 1}, 'needs a "class"'),
    ({"class": "cat", "count": 1, "position": ["beside", 0]}, "position"),
]
WRAPPED = {
    "alone": lambda reward: reward,
    "member": lambda reward: Member(reward),
    "sum": lambda reward: WeightedSum(((reward, 1.0),)),
    "ensemble": lambda reward: Ensemble((Member(reward),), "weighted mean", 1.0, False),
    "formula": lambda reward: FormulaReward("a", (("a", reward),)),
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("bad, words", BAD)
def test_a_prompt_that_cannot_be_judged_is_said_before_any_image_is(tmp_path, bad, words, how):
    """The bad one is the last of the set, and is not among those that are sampled first."""

    def never(*_):
        pytest.fail("an image was looked at")

    known = detector(tmp_path, ["cat", "dog"])
    known.__class__ = type("Never", (DetrDetector,), {"__call__": never})
    reward, all_of_them = WRAPPED[how](RuleReward(known)), prompts([GOOD], [GOOD], [bad])
    with pytest.raises(ValueError, match=words):
        check_prompts(reward, all_of_them)
    rollout = SimpleNamespace(
        index=torch.tensor([0, 1]), images=torch.zeros(2, 8, 8, 3), prompts=SimpleNamespace(prompts=all_of_them)
    )
    with pytest.raises(ValueError, match=words):
        score_rollout(reward, rollout)


def test_prompts_are_checked_once_and_others_pass(tmp_path):
    reward = RuleReward(detector(tmp_path, ["cat"]))
    check_prompts(reward, (Prompt("no record"), Prompt("of another verifier", {"balls": 1}), *prompts([GOOD])))
    many = prompts(*[[GOOD]] * 20_000)
    check_prompts(reward, many)
    reward._detector = None
    check_prompts(reward, many)
    check_prompts(lambda images, prompts: images, many)
