"""Every reward on images of every kind: 1 pixel, 8k, grey, transparent, not a number. Small random networks in the
published layouts; OCR and open_nsfw with their real weights."""
from __future__ import annotations

import math

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.composite.ensemble import Ensemble, Member
from posttrain.rewards.composite.formula import FormulaReward
from posttrain.rewards.learned import aesthetic, hpsv3, nsfw
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned.adversarial import Adversary
from posttrain.rewards.learned.classifier import ClassReward, build_classifier, read_geometry, read_labels
from posttrain.rewards.learned.clip import build_clip
from posttrain.rewards.learned.clip_rewards import KINDS
from posttrain.rewards.learned.tower import build_clip_tower, build_siglip_tower
from posttrain.rewards.rules import detectors, objects
from posttrain.rewards.rules.colour import STATISTICS, ColourReward
from posttrain.rewards.rules.jpeg import JPEGReward
from posttrain.rewards.rules.ocr import OCRReward
from posttrain.rewards.vlm import judge, local
from posttrain.toy.prompts import prompt_set
from posttrain.toy.verifier import ToyVerifier
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from .learned.test_aesthetic import Siglip, head_file
from .learned.test_classifier import folder as classifier_folder  # noqa: F401 (a fixture)
from .learned.test_clip import reward_of as clip_reward
from .learned.test_clip import saved
from .learned.test_hpsv3 import model as hpsv3_model  # noqa: F401 (a fixture)
from .learned.test_hpsv3 import small_images  # noqa: F401 (used by itself)
from .learned.test_imagereward import files as blip_files  # noqa: F401 (a fixture)
from .learned.test_imagereward import reward_of as blip_reward
from .networks import picture, randomised, tiny_open_clip
from .qwen import qwen_folder
from .rules.test_detectors import owl, yolos

TEXT = 'a sign that says "Open"'
SPEC = {"include": [{"class": "cat", "count": 1, "color": "red"}]}


@pytest.fixture
def make(tmp_path, request):
    """name -> the reward."""
    def aesthetic_reward(version, build, network, width):
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "tower.safetensors")
        head = head_file(tmp_path, width)[0]
        return aesthetic.AestheticReward(version, holders.Holder(lambda: build(tmp_path / "tower.safetensors"), "fp32"), head)

    def classifier():
        path, _ = request.getfixturevalue("classifier_folder")
        return ClassReward("nsfw", holders.Holder(lambda: build_classifier(path), "fp32"), read_labels(path),
                           read_geometry(path), "nsfw")

    def detector(kind):
        folder = (yolos if kind == "detr" else owl)(tmp_path)[0]
        holder = holders.Holder(lambda: getattr(detectors, f"build_{kind}")(folder), "fp32")
        found = (detectors.DetrDetector(holder, folder) if kind == "detr" else
                 detectors.OwlDetector(holder, folder, holders.clip_tokenizer_folder()))
        clip = saved(tmp_path, tiny_open_clip(), "open_clip")
        colours = objects.ClipColours(holders.Holder(lambda: build_clip(clip, "gelu"), "fp32"))
        low = objects.Thresholds(0.06, 0.06)  # whatever a random network sees is looked at
        return objects.RuleReward(found, limits=low, colours=colours, spec=SPEC)

    def local_judge():
        folder = tmp_path / "qwen2_vl"
        qwen_folder(folder)
        holder = holders.Holder(lambda: local.build_judge(folder), "fp32")
        return judge.JudgeReward(local.LocalModel(holder, folder, 112 * 112))

    def hps3():
        folder = request.getfixturevalue("hpsv3_model")[0]
        return hpsv3.HPSv3Reward(holders.Holder(lambda: hpsv3.build_hpsv3(folder), "fp32"), folder)

    bright = ColourReward("brightness")
    table = {
        **{f"colour {s}": (lambda s=s: ColourReward(s)) for s in STATISTICS},
        **{kind: (lambda kind=kind: clip_reward(saved(tmp_path, tiny_open_clip(), "open_clip"), kind)) for kind in KINDS},
        "JPEG": JPEGReward, "OCR": OCRReward, "adversarial": Adversary,
        "open_nsfw": lambda: nsfw.OpenNSFWReward(nsfw.packaged_open_nsfw()),
        "LAION": lambda: aesthetic_reward("LAION v2", build_clip_tower, tiny_open_clip(quick_gelu=True), 48),
        "aesthetic v2.5": lambda: aesthetic_reward("v2.5 (SigLIP)", build_siglip_tower, randomised(Siglip()), 144),
        "ImageReward": lambda: blip_reward(request.getfixturevalue("blip_files")),
        "classifier": classifier, "DETR": lambda: detector("detr"), "OWLv2": lambda: detector("owl"),
        "VLM": local_judge, "HPSv3": hps3, "toy": ToyVerifier,
        "ensemble": lambda: Ensemble((bright, Member(ColourReward("contrast"), "monitor"))),
        "formula and sum": lambda: FormulaReward("a + 1", (("a", WeightedSum(((bright, 2.0),))),)),
    }
    return lambda name: table[name]()


NAMES = (*(f"colour {s}" for s in STATISTICS), *KINDS, "JPEG", "OCR", "adversarial", "open_nsfw", "LAION", "aesthetic v2.5",
         "ImageReward", "classifier", "DETR", "OWLv2", "VLM", "HPSv3", "toy", "ensemble", "formula and sum")
EACH = pytest.mark.parametrize("name", NAMES)


def scores(reward, images) -> list[float]:
    prompt = prompt_set(held_out=False).prompts[0] if isinstance(reward, ToyVerifier) else Prompt(TEXT)
    return score(reward, images, [prompt] * len(images), [0] * len(images)).values.tolist()


@EACH
def test_one_pixel_grey_transparent_and_not_a_number(make, name):
    reward, image = make(name), picture(72, 96)
    one, = scores(reward, torch.full((1, 1, 1, 3), 0.4))
    assert math.isfinite(one)
    grey, alpha = image.mean(-1, keepdim=True), torch.cat([image, torch.zeros_like(image[..., :1])], -1)
    assert scores(reward, grey) == pytest.approx(scores(reward, grey.expand(-1, -1, -1, 3)), abs=1e-6)
    assert scores(reward, alpha) == pytest.approx(scores(reward, image), abs=1e-6)
    broken = torch.cat([image, image.clone(), 1 - image])
    broken[1, 5, 7, 1] = torch.nan
    found = scores(reward, broken)
    assert math.isnan(found[1]) and math.isfinite(found[0]) and math.isfinite(found[2])


@pytest.mark.parametrize("name", [n for n in NAMES if n != "toy"])  # the demo's pictures have 24 pixels
def test_8k(make, name):
    image = torch.nn.functional.interpolate(picture(270, 480).movedim(-1, 1), scale_factor=16).movedim(1, -1)
    assert image.shape == (1, 4320, 7680, 3)
    assert all(math.isfinite(value) for value in scores(make(name), image))


class Largest(TorchDispatchMode):
    """numbers: in the largest tensor that an operation inside has made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(each, torch.Tensor) and not func.is_view:
                self.numbers = max(self.numbers, each.numel())
        return found


@pytest.mark.parametrize("name", [n for n in NAMES if n != "toy"])  # numpy, on pictures of 24 pixels
def test_more_images_are_not_held_once_more(make, name):
    """Whatever a reward makes of images it makes of a few at a time."""
    reward, image, made = make(name), picture(96, 128), []
    scores(reward, image)
    for count in (16, 48):
        images = image.expand(count, -1, -1, -1).clone()
        with Largest() as largest:
            scores(reward, images)
        made.append(largest.numbers)
    assert made[1] <= max(made[0], images.numel() // 3), name
