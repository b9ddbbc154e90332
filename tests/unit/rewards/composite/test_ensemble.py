"""Normalisation, roles, combination rules, gates, tie-breaks, calibration: all by hand on small numbers."""
from __future__ import annotations

import math

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, RewardInfo, score
from posttrain.rewards.composite import calibrate as cal
from posttrain.rewards.composite.ensemble import COMBINE, SCALES, Ensemble, Member, gated, tie_broken
from posttrain.rewards.composite.normalise import batch_z, calibrated, group_z, win_rate
from posttrain.rewards.rules.colour import ColourReward
from posttrain.trainers.feedback.advantages import advantages

NAN = float("nan")
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
IMAGES, PROMPTS = torch.zeros(6, 2, 2, 3), [Prompt("a")] * 3 + [Prompt("b")] * 3


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Fixed:
    def __init__(self, *values, name="r", differentiable=True, prompt=False):
        self.values = t(*values)
        self.info = RewardInfo(name, None, None, prompt, differentiable, "")

    def __call__(self, images, prompts):
        return self.values


def values_of(ensemble: Ensemble) -> torch.Tensor:
    return score(ensemble, IMAGES, PROMPTS, GROUPS).values


def test_group_z_by_hand():
    z = group_z(t(1, 2, 3, 10, 20, 30), GROUPS)
    s = math.sqrt(1.5)
    assert torch.allclose(z, t(-s, 0, s, -s, 0, s))


def test_nan_is_left_out_and_stays():
    z = group_z(t(1, NAN, 3, NAN, NAN, NAN), GROUPS)
    assert torch.allclose(z[[0, 2]], t(-1, 1)) and z[[1, 3, 4, 5]].isnan().all()


def test_group_without_spread_gives_zero_and_noise_is_not_blown_up():
    assert group_z(t(5, 5, 5, 1, 2, 3), GROUPS)[:3].tolist() == [0, 0, 0]
    assert group_z(t(5, 5, 5, 7, 7, 7), GROUPS).tolist() == [0] * 6
    almost = group_z(t(5, 5, 5 + 1e-9, 1, 2, 3), GROUPS)
    assert almost[:3].abs().max() < 1e-6 and almost[3:].abs().max() > 1


def test_other_scales():
    assert torch.allclose(batch_z(t(0, 4)), t(-1, 1)) and calibrated(t(7), 5, 2).tolist() == [1]
    assert win_rate(t(3, 1, 2, 5, 5, NAN), GROUPS)[:5].tolist() == [1, 0, 0.5, 0.5, 0.5]
    assert win_rate(t(4), torch.tensor([0])).tolist() == [0.5]
    with pytest.raises(ValueError, match="deviation must be above 0"):
        calibrated(t(1), 0, 0)


def test_default_is_group_z_weighted_mean_batch_z():
    a, b = t(1, 2, 6, 4, 4, 5), t(0.3, 0.1, 0.2, 0.9, 0.5, 0.7)
    total = (3 * group_z(a, GROUPS) - 1 * group_z(b, GROUPS)) / 4
    expected = (total - total.mean()) / total.std(correction=0)
    found = values_of(Ensemble((Member(Fixed(*a), weight=3), Member(Fixed(*b), weight=-1))))
    assert torch.allclose(found, expected)


def test_scaling_one_member_changes_nothing():
    """The raw scale of a reward must not decide the mix."""
    a, b = t(1, 2, 6, 4, 4, 5), t(0.3, 0.1, 0.2, 0.9, 0.5, 0.7)
    one = values_of(Ensemble((Fixed(*a), Fixed(*b))))
    assert torch.allclose(one, values_of(Ensemble((Fixed(*(a * 100 + 7)), Fixed(*b)))))


def test_worst_member_and_spread():
    a, b = Fixed(1, 2, 3, 1, 2, 3), Fixed(3, 2, 1, 1, 2, 3)
    s = math.sqrt(1.5)
    worst = values_of(Ensemble((a, b), COMBINE[1], again=False))
    assert torch.allclose(worst, t(-s, 0, -s, -s, 0, s))
    careful = values_of(Ensemble((a, b), COMBINE[2], k=0.5, again=False))
    assert torch.allclose(careful, t(-0.5 * s, 0, -0.5 * s, -s, 0, s), atol=1e-5)


def test_gate_puts_failures_below_everything_in_their_group():
    a = Member(Fixed(1, 2, 3, -5, -7, -9), scale="raw")
    gate = Member(Fixed(0.9, 0.4, 0.5, 0.1, 0.9, 0.9, name="safe"), role="gate", threshold=0.5)
    found = values_of(Ensemble((a, gate), again=False))
    assert found.tolist() == [1, 0, 3, -10, -7, -9]
    scores = score(Ensemble((a, gate)), IMAGES, PROMPTS, GROUPS)
    assert scores.normalised["safe"].tolist() == [1, 0, 1, 0, 1, 1] and scores.members["safe"][1] == 0.4


def test_soft_gate_is_half_open_at_its_threshold_and_becomes_the_hard_one():
    total, groups = t(2, 4), torch.tensor([0, 0])
    assert gated(total, t(0.5, 1), groups).tolist() == [1.5, 4]
    hard = Member(Fixed(0.4, 0.6), role="gate", threshold=0.5)
    soft = Member(Fixed(0.4, 0.6), role="soft gate", threshold=0.5, softness=1e-3)
    images, prompts = IMAGES[:2], PROMPTS[:2]
    a, b = (score(Ensemble((Member(Fixed(2, 1), scale="raw"), g), again=False), images, prompts, groups).values for g in (hard, soft))
    assert torch.allclose(a, b) and a.tolist() == [0, 1]


def test_tie_break_decides_ties_and_never_more():
    rule = t(1, 1, 0, 0.5, 0.5, 0.5)
    found = tie_broken(rule, t(-3, 2, 99, 1, 3, 2), GROUPS)
    assert found[1] > found[0] > found[2] and found[0] - found[2] > 0
    assert found[4] > found[5] > found[3]
    ensemble = Ensemble((Member(Fixed(*rule, name="rule"), scale="raw"),
                         Member(Fixed(-3, 2, 99, 1, 3, 2, name="net"), role="tie-break")), again=False)
    v = values_of(ensemble)
    assert v[1] > v[0] > v[2] and v[4] > v[5] > v[3]


def test_monitor_is_shown_but_changes_nothing_even_if_it_fails():
    a, monitor = Fixed(1, 2, 3, 3, 2, 1, name="a"), Member(Fixed(NAN, 9, 8, 1, 1, 5, name="eye"), role="monitor")
    scores = score(Ensemble((a, monitor)), IMAGES, PROMPTS, GROUPS)
    assert torch.equal(scores.values, values_of(Ensemble((a,)))) and scores.members["eye"][0].isnan()
    assert torch.allclose(scores.normalised["eye"], group_z(t(NAN, 9, 8, 1, 1, 5), GROUPS), equal_nan=True)
    rule = "each reward in its group"  # the one advantage rule that looks at members
    watched = score(Ensemble((a, Member(Fixed(5, 1, 9, 1, 1, 5), role="monitor"))), IMAGES, PROMPTS, GROUPS)
    assert torch.equal(advantages(watched, rule).values, advantages(score(Ensemble((a,)), IMAGES, PROMPTS, GROUPS), rule).values)
    assert Ensemble((a, monitor)).notes() == [] and "No monitor" in Ensemble((a,)).notes()[0]


def test_failed_trained_member_or_gate_fails_the_image():
    a, b = Fixed(1, NAN, 3, 1, 2, 3), Fixed(1, 2, 3, 1, 2, 3)
    assert values_of(Ensemble((a, b))).isnan().tolist() == [False, True] + [False] * 4
    gate = Member(a, role="gate", threshold=0.0)
    assert values_of(Ensemble((b, gate))).isnan().tolist() == [False, True] + [False] * 4
    assert not values_of(Ensemble((b, Member(a, weight=0.0)))).isnan().any()


def test_win_rate_resists_an_extreme_value():
    a, b = Fixed(1, 2, 1e9, 1, 2, 3), Fixed(1, 2, 3, 1, 2, 3)
    member = [Ensemble((Member(r, scale=SCALES[3]),)) for r in (a, b)]
    assert torch.equal(values_of(member[0]), values_of(member[1]))


def test_gradient_reaches_the_images_and_does_not_cancel_in_the_group():
    images = torch.rand(6, 4, 4, 3, requires_grad=True)
    ensemble = Ensemble((ColourReward("brightness"), Member(ColourReward("contrast"), weight=-1),
                         Member(ColourReward("saturation"), role="soft gate", threshold=0.3)), again=False)
    ensemble.evaluate(images, PROMPTS, GROUPS).values.mean().backward()
    assert torch.isfinite(images.grad).all() and images.grad.abs().max() > 1e-3
    assert ensemble.info.differentiable
    assert not Ensemble((Member(ColourReward("brightness"), scale=SCALES[3]),)).info.differentiable


class Watching(ColourReward):
    """Notes whether it was asked for a gradient."""

    asked: list = []

    def __call__(self, images, prompts):
        self.asked.append(torch.is_grad_enabled())
        return super().__call__(images, prompts)


def test_monitors_and_hard_gates_never_carry_a_gradient():
    images = torch.rand(6, 4, 4, 3, requires_grad=True)
    found = []
    for role in ("monitor", "gate", "trained"):
        Watching.asked.clear()
        images.grad = None
        members = (ColourReward("brightness"), Member(Watching("saturation"), role=role, threshold=-1.0))
        Ensemble(members, again=False).evaluate(images, PROMPTS, GROUPS).values.sum().backward()
        found.append((Watching.asked[:], images.grad.clone()))
    alone = torch.autograd.grad(Ensemble((ColourReward("brightness"),), again=False).evaluate(
        images, PROMPTS, GROUPS).values.sum(), images)[0]
    assert [asked for asked, _ in found] == [[False], [False], [True]]
    assert torch.equal(found[0][1], alone) and torch.equal(found[1][1], alone) and not torch.equal(found[2][1], alone)


@pytest.mark.parametrize("ensemble, count, refused", [
    (Ensemble((ColourReward("brightness"),), again=False), 2, True), (Ensemble((ColourReward("brightness"),)), 2, True),
    (Ensemble((Member(ColourReward("brightness"), scale="raw"),)), 2, False),
    (Ensemble((Member(ColourReward("brightness"), scale="raw"),)), 1, True),
    (Ensemble((Member(ColourReward("brightness"), scale="raw"),), again=False), 1, False)])
def test_one_image_per_prompt_cannot_teach_through_a_gradient(ensemble, count, refused):
    images, prompts = torch.rand(count, 4, 4, 3, requires_grad=True), [Prompt(p) for p in "ab"[:count]]
    if refused:
        with pytest.raises(ValueError, match="each prompt has one image at a time"):
            ensemble.evaluate(images, prompts, torch.arange(count))
    else:
        ensemble.evaluate(images, prompts, torch.arange(count)).values[0].backward()
        assert images.grad.abs().sum() > 0
    assert score(ensemble, images, prompts, torch.arange(count)).values.isfinite().all()  # scoring alone is harmless


def test_calibrated_scale_needs_a_calibration_and_uses_it(tmp_path):
    member = Member(Fixed(4, 6, 8, 10, 12, 14, name="r"), scale="calibrated")
    with pytest.raises(ValueError, match="'r' is to be put on the calibrated scale"):
        Ensemble((member,))
    statistics = {"r": cal.Statistics(64, 6.0, 2.0, 1.0, {})}
    assert values_of(Ensemble((member,), again=False, calibration=statistics)).tolist() == [-1, 0, 1, 2, 3, 4]


def test_calibration_statistics_survive_the_run_folder(tmp_path):
    reward = Fixed(*range(8), NAN, 100, name="r")
    scores = score(reward, torch.zeros(10, 2, 2, 3), [Prompt("")] * 10, [0] * 4 + [1] * 4 + [2, 2])
    found = cal.calibrate(scores)
    assert cal.load(tmp_path / "run") == {}
    cal.save(found, tmp_path / "run")
    assert cal.load(tmp_path / "run") == found
    s = found["r"]
    assert s.count == 9 and s.mean == pytest.approx(128 / 9) and s.quantiles["0.5"] == 4
    assert s.group_std == pytest.approx(math.sqrt(1.25)) and "r: mean 14.22" in cal.describe(found)
    (tmp_path / "run" / cal.FILE).write_text("{")
    with pytest.raises(ValueError, match="Delete it to calibrate again"):
        cal.load(tmp_path / "run")


def test_calibration_of_too_few_images():
    scores = score(Fixed(1, 2, 3, 4, 5, NAN), IMAGES, PROMPTS, GROUPS)
    with pytest.raises(ValueError, match="5 images only"):
        cal.calibrate(scores)


@pytest.mark.parametrize("make, message", [
    (lambda: Ensemble(()), "no trained member"), (lambda: Ensemble((Member(Fixed(1), role="monitor"),)), "no trained member"),
    (lambda: Ensemble((Member(Fixed(1), weight=0.0),)), "no trained member"), (lambda: Ensemble((Fixed(1),), "best"), "combine"),
    (lambda: Member(Fixed(1), role="boss"), "role"), (lambda: Member(Fixed(1), scale="log"), "scale"),
    (lambda: Member(Fixed(1), role="soft gate", softness=0.0), "softness"),
])
def test_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_raw_scales_in_a_mix_are_pointed_out():
    notes = Ensemble((Member(Fixed(1), scale="raw"), Fixed(2))).notes()
    assert any("raw scale" in n for n in notes)
