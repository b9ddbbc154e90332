"""An evaluation on the demo world: what is sampled for distances, what they lie between, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from posttrain.nodes.prompts import encode_prompts
from posttrain.nodes.sampling.distance import DEMO, embedding_of
from posttrain.rewards.base.distances import Distance, fid, kid
from posttrain.rewards.base.prompt import Prompt
from posttrain.rewards.base.reward import Scores
from posttrain.rewards.images import read_image
from posttrain.rewards.rules.colour import ColourReward
from posttrain.toy.models import load_clip, load_model, load_vae
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling import evaluation
from posttrain.trainers.sampling.evaluation import HACKED, Apart, Evaluation, HeldOut, evaluate
from posttrain.trainers.sampling.settings import Sampling
from small_models import off_its_start

SAMPLING = Sampling(steps=3, width=24, height=24, images_per_prompt=4, batch_size=16)
REWARD = ColourReward("brightness")


@pytest.fixture(scope="module")
def world():
    """(policy whose bank is not at its start, encoded prompts, VAE)."""
    policy = off_its_start(create_policy(load_model("flow"), Recipe(rank=4)), 0.05)
    prompts = PromptSet(tuple(Prompt(text) for text in ("a red ball", "two blue balls", "a green ball and a blue ball")))
    return policy, encode_prompts(prompts, load_clip(), ""), load_vae()


@pytest.fixture
def rollouts(monkeypatch):
    """[(weights, iteration)] of the rollouts that are made."""
    made, real = [], evaluation.rollout

    def seen(policy, prompts, vae, sampling, iteration, **options):
        made.append((options["weights"], iteration))
        return real(policy, prompts, vae, sampling, iteration, **options)

    monkeypatch.setattr(evaluation, "rollout", seen)
    return made


def demo(pictures=()):
    return embedding_of(DEMO, "auto", "fp32", list(pictures), 8)


def test_without_distances_nothing_else_is_sampled(world, rollouts):
    found = evaluate(*world, REWARD, SAMPLING)
    assert rollouts == [("trained", 0), ("reference", 0)] and found.apart is None
    assert "FID" not in found.summary() and found.summary().count("gain") == 1


def test_the_models_own_pictures_are_compared_with_others_of_other_noise(world, rollouts):
    told = []
    found = evaluate(*world, REWARD, SAMPLING, True, lambda done, total, x0: told.append((done, total)), demo())
    assert rollouts == [("trained", 0), ("reference", 0), ("reference", 1)]
    assert told[-1][0] == told[-1][1] and told == sorted(told), "the progress has all three parts"
    features = demo()
    after, before = features.of(found.images), features.of(found.base_images)
    assert torch.allclose(found.known.before, before) and not torch.equal(found.known.reference, before)
    names = [each.name for each in found.apart.distances]
    assert names == ["FID (demo CLIP)", "KID (demo CLIP)", "CMMD (demo CLIP)"]
    by_hand = [(measure(before, found.known.reference), measure(after, found.known.reference)) for measure in (fid, kid)]
    for (first, now), distance in zip(by_hand, found.apart.distances):
        assert (distance.before, distance.after) == (pytest.approx(first, rel=1e-4), pytest.approx(now, rel=1e-4))
    assert found.summary().endswith("12 images to 12 others of the model before training")
    assert "FID (demo CLIP)" in found.summary().splitlines()[1]


def test_what_is_known_is_not_made_again(world, rollouts):
    """In a loop only the policy's own pictures are drawn anew."""
    whole = evaluate(*world, REWARD, SAMPLING, True, None, demo())
    rollouts.clear()
    again = evaluate(*world, REWARD, SAMPLING, False, None, demo(), whole.known)
    assert rollouts == [("trained", 0)]
    assert again.apart.lines() == whole.apart.lines()


def test_a_folder_is_compared_with_instead(world, rollouts, tmp_path):
    files = []
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    found = evaluate(*world, REWARD, SAMPLING, False, None, demo(files))
    assert rollouts == [("trained", 0)]
    assert torch.allclose(found.known.reference, torch.cat([demo().of(read_image(file)) for file in files]))
    assert found.summary().endswith("12 images to 5 pictures of the folder")
    assert all(each.before is None for each in found.apart.distances) and not found.hacked


def scores(values) -> Scores:
    return Scores(torch.tensor(values, dtype=torch.float64), torch.zeros(len(values), dtype=torch.long), {}, {})


@pytest.mark.parametrize("gains, change, hacked", [
    ([1.0, 1.2, 0.9, 1.1], 3.0, True),
    ([1.0, 1.2, 0.9, float("nan")], 3.0, True),
    ([1.0, 1.2, 0.9, 1.1], 1.0, False),
    ([1.0, -1.2, 0.9, -1.1], 3.0, False),
    ([-1.0, -1.2, -0.9, -1.1], 3.0, False),
])  # fmt: skip
@pytest.mark.parametrize("name", ["FID", "FID (CLIP)", "KID"])
def test_reward_up_and_fid_up_is_named(gains, change, hacked, name):
    """Only where both are more than chance explains, and only by FID."""
    apart = Apart((Distance(name, 10 + change, 10.0, 1.0),), 4, 4, False)
    found = Evaluation(scores(gains), torch.zeros(4, 1, 1, 3), scores([0.0] * 4), torch.zeros(4, 1, 1, 3), 0, apart)
    assert found.hacked == (hacked and name != "KID")
    assert (HACKED in found.summary()) == found.hacked


def test_a_run_that_goes_on_makes_its_features_anew_and_then_keeps_them(world, rollouts):
    evaluation_of = HeldOut(world[1], world[2], REWARD, SAMPLING, 1, "the last", None, demo())
    first = evaluation_of.measure(world[0], False)
    assert rollouts == [("trained", 0), ("reference", 0), ("reference", 1)]
    second = evaluation_of.measure(world[0], False, first.known)
    assert rollouts[3:] == [("trained", 0)] and second.apart.lines() == first.apart.lines()
