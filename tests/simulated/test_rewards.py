"""Every reward that asks a network, on the card and with a host that keeps nothing there: scores and gradients are the CPU's."""
from __future__ import annotations

import re
from pathlib import Path

import posttrain
import pytest
import torch
import world
from networks_of_rewards import FINDING, MEASURING, SCORING
from posttrain.rewards.base.reward import Prompt, networks_of
from posttrain.rewards.rules.geneval import Detection
from simulated_card import host
from world import BACKPROP, World

PROMPTS = [Prompt("a cat"), Prompt("a cat")]


def images(device: str):
    random = torch.Generator().manual_seed(5)
    return torch.rand(2, 40, 40, 3, generator=random).to(device).requires_grad_()


def answers(reward, device: str):
    x = images(device)
    values = reward(x, PROMPTS)
    if reward.info.differentiable:
        values.sum().backward()
    return values.detach().cpu(), None if x.grad is None else x.grad.cpu()


def on_the_cpu(reward):
    """The same reward, its networks on the CPU."""
    for holder in networks_of(reward):
        holder._loaded().load_device = torch.device("cpu")
    return reward


def check(name: str, folder: Path) -> None:
    there = SCORING[name](folder)
    found = answers(there, "cuda")
    host.unload_all()
    expected = answers(on_the_cpu(there), "cpu")
    for a, b in zip(found, expected):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert expected[1] is None or float(expected[1].abs().sum()) > 0


@pytest.mark.parametrize("name", SCORING)
def test_on_the_card(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.card("--novram")
@pytest.mark.parametrize("name", SCORING)
def test_with_nothing_kept_on_the_card(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.parametrize("name", FINDING)
def test_a_detector_on_the_card(name, tmp_path):
    finds(name, tmp_path)


@pytest.mark.card("--novram")
@pytest.mark.parametrize("name", FINDING)
def test_a_detector_with_nothing_kept_on_the_card(name, tmp_path):
    finds(name, tmp_path)


def finds(name: str, folder: Path) -> None:
    """The same things in an image of the card's as the same network finds on the CPU."""
    detector = FINDING[name](folder)

    def found(device: str):
        if name == "rules/objects":
            return detector(images(device).detach()[0], "cat", [Detection((2, 2, 30, 30), 0.9)])
        boxes, = detector(images(device).detach()[:1], [["cat", "dog"]])
        return {word: [(tuple(round(v, 2) for v in d.box), round(d.score, 3)) for d in one] for word, one in boxes.items()}

    there = found("cuda")
    host.unload_all()
    detector._holder._loaded().load_device = torch.device("cpu")
    assert there == found("cpu") and there


@pytest.mark.parametrize("name", MEASURING)
def test_features_on_the_card(name, tmp_path):
    features = MEASURING[name](tmp_path)
    there = features.of(images("cuda").detach())
    host.unload_all()
    features.holder._loaded().load_device = torch.device("cpu")
    expected = features.of(images("cpu").detach())
    assert there.device.type == "cpu" and float(expected.abs().sum()) > 0
    torch.testing.assert_close(there, expected, rtol=1e-3, atol=1e-5)


def test_every_reward_with_a_network_is_there():
    folder = Path(posttrain.__path__[0]) / "rewards"
    asking = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.py")
              if re.search(r"\.use\(\)", path.read_text(encoding="utf-8"))} - {"learned/holder"}
    assert {name.split(",")[0] for name in (*SCORING, *FINDING, *MEASURING)} == {name.replace("\\", "/") for name in asking}


@pytest.mark.card("--novram")
@pytest.mark.parametrize("trainer", BACKPROP, ids=lambda t: t.__name__)
def test_trainers_follow_a_network_when_nothing_is_kept_on_the_card(trainer):
    there = World("sd3")
    new = world.step(there, trainer, reward=world.demo_judge())
    assert new.metrics["grad_norm"] > 0 and not host.strays(new)
