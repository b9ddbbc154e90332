"""Pairs judged blind: sides are turned for half of them, the answer is put right again, and a judge of one side moves nothing."""

from __future__ import annotations

import math

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, RewardInfo
from posttrain.rewards.person.by_hand import HumanReward
from posttrain.trainers.data.blind import bradley_terry, win_share
from posttrain.trainers.data.blind_ab import BlindAB
from posttrain.trainers.run.gate import BEST

INFO = RewardInfo("brightness", 0.0, 1.0, False, False, "")


class Bright:
    info = INFO

    def __call__(self, images, prompts):
        return images.flatten(1).mean(1)


class OfTheLeft:
    """Always prefers the picture that it is shown first."""

    info, compares = INFO, True

    def __init__(self):
        self.shown: list[torch.Tensor] = []

    def __call__(self, images, prompts):
        self.shown.append(images)
        return torch.tensor([1.0, 0.0]).repeat(len(images) // 2)


def plain(*lightness: float) -> torch.Tensor:
    return torch.tensor(lightness)[:, None, None, None].expand(-1, 4, 4, 3)


def compared(judge, images, others, most=0, seed=3):
    return BlindAB(judge, BEST, most).compare(images, others, [Prompt(str(i)) for i in range(len(images))], seed)


@pytest.mark.parametrize("seed", range(6))
def test_the_better_picture_wins_on_whichever_side_it_is(seed):
    images, others = plain(0.9, 0.8, 0.2, 0.5, 0.7), plain(0.1, 0.2, 0.4, 0.5, math.nan)
    found = compared(Bright(), images, others, seed=seed)
    assert found == (2, 1, 1) and found.pairs == 4
    assert found.share == win_share(2, 1, 1) and found.strength == bradley_terry(2, 1, 1)
    assert compared(Bright(), others, images, seed=seed) == (1, 2, 1)


def test_a_judge_who_prefers_a_side_finds_them_even():
    judge, images, others = OfTheLeft(), plain(*[0.9] * 40), plain(*[0.1] * 40)
    assert compared(judge, images, others) == (20, 20, 0)
    first = judge.shown[0][::2].flatten(1).mean(1)
    assert sorted(set(first.tolist())) == pytest.approx([0.1, 0.9]) and first.mean() == pytest.approx(0.5)
    assert not torch.equal(first, first.sort().values), "the sides follow no pattern that a judge could learn"


def test_few_pairs_are_spread_over_the_prompts():
    images, others = plain(*[0.9] * 6, *[0.1] * 6), plain(*[0.5] * 12)
    assert compared(Bright(), images, others, most=4) == (2, 2, 0)
    assert compared(Bright(), images, others, most=99).pairs == 12


def test_a_person_is_asked_about_two_pictures_at_a_time_and_left_out_where_silent():
    def ask(images, sheets):
        assert all(len(sheet.rows) == 2 for sheet in sheets) and [sheet.prompt for sheet in sheets] == ["0", "1", "2"]
        votes = {}
        for sheet in sheets[:2]:
            order = sorted(sheet.rows, key=lambda row: float(images[row].mean()))
            votes |= {order[0]: -1, order[1]: 1}
        return votes

    found = compared(HumanReward(ask), plain(0.9, 0.1, 0.9), plain(0.5, 0.5, 0.5))
    assert found == (1, 1, 0)
