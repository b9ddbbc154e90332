from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from posttrain.rewards.base.reward import Judgement, Prompt, RewardInfo, groups_of, score, score_rollout
from posttrain.rewards.base.usable import usable_images

PROMPTS = [Prompt("a"), Prompt("a"), Prompt("b")]
GROUPS = torch.tensor([0, 0, 1])


@dataclass
class Mean:
    """Mean brightness; remembers the images that reached it."""

    info: RewardInfo = RewardInfo("mean", 0, 1, False, True, "mean of the pixels")
    seen: torch.Tensor | None = None

    def __call__(self, images, prompts):
        self.seen = images
        return images.mean((1, 2, 3))


def images(*levels: float, channels: int = 3) -> torch.Tensor:
    return torch.stack([torch.full((4, 5, channels), float(v)) for v in levels])


def test_values_groups_members_and_stats():
    scores = score(Mean(), images(0.2, 0.4, 0.9), PROMPTS, GROUPS)
    assert scores.values.dtype == torch.float64 and scores.groups.tolist() == [0, 0, 1]
    assert torch.allclose(scores.values, torch.tensor([0.2, 0.4, 0.9], dtype=torch.float64), atol=1e-6)
    assert torch.equal(scores.members["mean"], scores.values)
    assert scores.stats["mean"] == pytest.approx(0.5, abs=1e-6)
    assert scores.stats["std"] == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 3), abs=1e-6)
    assert scores.stats["failed"] == 0 and scores.stats["images"] == 3


def test_nan_pixels_fail_only_their_image_and_never_reach_the_reward():
    batch = images(0.2, 0.4, 0.9)
    batch[1, 2, 2, 0] = torch.nan
    reward = Mean()
    scores = score(reward, batch, PROMPTS, GROUPS)
    assert scores.values.isnan().tolist() == [False, True, False]
    assert torch.isfinite(reward.seen).all() and scores.stats["failed"] == 1
    assert scores.stats["mean"] == pytest.approx(0.55, abs=1e-6)


def test_infinite_score_counts_as_failed():
    class Infinite(Mean):
        def __call__(self, images, prompts):
            return torch.tensor([1.0, torch.inf, -torch.inf])

    assert score(Infinite(), images(0, 0, 0), PROMPTS, GROUPS).stats["failed"] == 2


def test_all_failed_gives_nan_stats_without_an_error():
    class Failing(Mean):
        def __call__(self, images, prompts):
            return torch.full((3,), torch.nan)

    stats = score(Failing(), images(0, 0, 0), PROMPTS, GROUPS).stats
    assert stats["failed"] == 3 and math.isnan(stats["mean"])


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_rgba_become_rgb(channels):
    reward = Mean()
    score(reward, images(0.2, 0.4, 0.6, channels=channels), PROMPTS, GROUPS)
    assert reward.seen.shape == (3, 4, 5, 3)


@pytest.mark.parametrize("bad, message", [
    (torch.zeros(3, 4, 5), "batch, height, width"),
    (torch.zeros(3, 3, 8, 8), "batch, height, width"),
    (torch.zeros(0, 4, 5, 3), "nothing to score"),
    (torch.full((3, 4, 5, 3), 200.0), "0..1"),
    (torch.zeros(3, 4, 5, 3, dtype=torch.uint8), "255"),
])
def test_wrong_images_are_refused_with_a_remedy(bad, message):
    with pytest.raises(ValueError, match=message):
        score(Mean(), bad, PROMPTS, GROUPS)


def test_counts_must_agree():
    with pytest.raises(ValueError, match="equally many"):
        score(Mean(), images(0.1, 0.2), PROMPTS, GROUPS)


def test_reward_that_answers_the_wrong_shape_is_named():
    class Wrong(Mean):
        def __call__(self, images, prompts):
            return images.mean()

    with pytest.raises(ValueError, match="'mean' must answer one number per image"):
        score(Wrong(), images(0, 0, 0), PROMPTS, GROUPS)


def test_prompt_reward_refuses_a_batch_without_any_prompt():
    reward = Mean(RewardInfo("match", 0, 1, True, True, ""))
    with pytest.raises(ValueError, match="every prompt is empty"):
        score(reward, images(0, 0, 0), [Prompt(" ")] * 3, GROUPS)
    score(reward, images(0, 0, 0), [Prompt("", {"tag": "x"})] * 3, GROUPS)


def test_composite_is_told_the_groups_and_its_members_are_reported():
    class Composite(Mean):
        def evaluate(self, images, prompts, groups):
            return Judgement(groups.double(), {"m": images.mean((1, 2, 3))}, {"m": torch.zeros(3)})

    scores = score(Composite(), images(0.2, 0.4, 0.9), PROMPTS, GROUPS)
    assert scores.values.tolist() == [0, 0, 1] and set(scores.members) == {"m"} and set(scores.normalised) == {"m"}


def test_rollout_maps_index_to_prompts():
    class Length(Mean):
        def __call__(self, images, prompts):
            return torch.tensor([float(len(p.text)) for p in prompts])

    rollout = SimpleNamespace(images=images(0, 0, 0), index=torch.tensor([1, 1, 0]), groups=torch.tensor([5, 4, 0]),
                              prompts=SimpleNamespace(prompts=(Prompt("aa"), Prompt("b"))))
    scores = score_rollout(Length(), rollout)
    assert scores.values.tolist() == [1, 1, 2] and scores.groups.tolist() == [5, 4, 0]


def test_usable_images_keeps_gradients():
    x = torch.rand(2, 3, 3, 3, requires_grad=True)
    usable_images(x)[0].sum().backward()
    assert (x.grad == 1).all()


def test_prompts_are_hashable_and_groups_follow_their_text():
    assert len({Prompt("a", {"n": 1}), Prompt("a", {"n": 1})}) == 1
    assert groups_of([Prompt("b"), Prompt("a"), Prompt("b")]).tolist() == [0, 1, 0]


def test_a_good_batch_is_judged_without_a_copy():
    given, reward = images(0.0, 0.4, 1.0), Mean()
    score(reward, given, PROMPTS, GROUPS)
    assert reward.seen.data_ptr() == given.data_ptr()
    outside = images(-0.1, 0.4, 1.1)
    score(reward, outside, PROMPTS, GROUPS)
    assert float(reward.seen.min()) == 0 and float(reward.seen.max()) == 1 and float(outside.min()) < 0


def test_a_reward_that_writes_into_the_images_is_named():
    class Darkens(Mean):
        def __call__(self, images, prompts):
            return images.mul_(0.5).mean((1, 2, 3))

    with pytest.raises(ValueError, match="The reward 'mean' has written into the images"):
        score(Darkens(), images(0.2, 0.4, 0.9), PROMPTS, GROUPS)


def test_a_function_of_another_pack_may_write_into_its_images():
    given = images(0.2, 0.4, 0.9)
    assert score(lambda images, prompts: images.mul_(0.5).mean((1, 2, 3)), given, PROMPTS, GROUPS).values[2] == pytest.approx(0.45)
    assert torch.equal(given, images(0.2, 0.4, 0.9))
