"""An iteration touches the rows that it takes: memory and time do not grow with the data beside them."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
from posttrain.rewards.base.reward import Prompt
from posttrain.trainers.data.encoded import EncodedData, deal
from posttrain.trainers.data.images import Frame
from posttrain.trainers.data.rows import Pair, Picture
from posttrain.trainers.noise.streams import Stream, generator
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling.draws import chosen_prompts
from posttrain.trainers.sampling.rollout import Rollout, for_autograd
from posttrain.trainers.sampling.settings import Sampling
from torch.utils._python_dispatch import TorchDispatchMode


class Made(TorchDispatchMode):
    """Counts the bytes of every tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        views = {each.untyped_storage().data_ptr() for each in args if isinstance(each, torch.Tensor)}
        for each in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr() not in views:
                self.bytes += each.numel() * each.element_size()
        return found


def policy():
    import comfy.model_sampling

    sampling = type("S", (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS), {})()
    model = SimpleNamespace(latent_format=SimpleNamespace(latent_channels=4))
    return SimpleNamespace(model=SimpleNamespace(model=model, get_model_object=lambda name: sampling))


def data(tmp_path, count: int) -> EncodedData:
    from PIL import Image

    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    pair = Pair("x", "a", *(Picture(name, tmp_path / f"{name}.png") for name in ("a", "b")))
    with torch.inference_mode():
        latents = torch.zeros(2 * count, 4, 8, 8, dtype=torch.float16)
        places = torch.arange(2 * count).view(count, 2)
        conditionings = tuple([[torch.zeros(1, 77, 64), {}]] for _ in range(10))
        prompt = torch.zeros(count, dtype=torch.int64)
    return EncodedData(
        "test",
        (pair,) * count,
        places,
        latents,
        PromptSet((Prompt("a"),) * 10, conditionings),
        prompt,
        torch.ones(count, dtype=torch.bool),
        Frame(8, 8),
    )


@pytest.mark.parametrize("inference", [True, False])
def test_an_iteration_of_pairs_copies_its_own_rows(tmp_path, inference):
    made = {}
    for count in (100, 50_000):
        rows = data(tmp_path, count)
        deal(rows, policy(), 0, 16, 0, 4)  # the deck is shuffled once
        with torch.inference_mode(inference), Made() as counted:
            rollout, _ = deal(rows, policy(), 0, 16, 0, 4)
        assert rollout.latents.shape == (32, 4, 8, 8) and not rollout.latents.is_inference() and rollout.prompts is rows.prompts
        made[count] = counted.bytes
    assert made[50_000] < 1.2 * made[100] and made[50_000] < 2_000_000


def test_a_million_rows_are_shuffled_once_and_dealt_as_ever():
    """The same picks as when each was taken from a deck of its own, in a fraction of a second."""
    settings, begun = Sampling(prompts_per_iteration=64, seed=5), time.monotonic()
    found = [chosen_prompts(1_000_000, settings, iteration) for iteration in (0, 1, 2, 15_624, 15_625, 15_626)]
    assert time.monotonic() - begun < 5 and all(len(each) == 64 for each in found)
    decks = {}
    for count, wanted in ((7, 3), (5, 5), (4, 9), (1, 1)):
        settings = Sampling(prompts_per_iteration=wanted, seed=5)
        for iteration in range(12):
            first = iteration * min(wanted, count)
            expected = []
            for position in range(first, first + min(wanted, count)):
                key = (count, position // count)
                if key not in decks:
                    decks[key] = torch.randperm(count, generator=generator(5, key[1], Stream.DECK))
                expected.append(int(decks[key][position % count]))
            assert chosen_prompts(count, settings, iteration).tolist() == expected


def test_a_rollout_for_autograd_keeps_its_prompts_as_they_are():
    with torch.inference_mode():
        prompts = PromptSet((Prompt("a"),), ([[torch.zeros(1, 9), {}]],))
        latents = torch.zeros(2, 4, 8, 8)
    rollout = Rollout(
        latents,
        torch.zeros(2, 8, 8, 3),
        prompts,
        torch.zeros(2, dtype=torch.int64),
        torch.arange(2),
        1.0,
        torch.ones(3),
        None,
        2,
    )
    usable = for_autograd(rollout)
    assert usable.prompts is prompts and not usable.latents.is_inference() and torch.equal(usable.latents, latents)
