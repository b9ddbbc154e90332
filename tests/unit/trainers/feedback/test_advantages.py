from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.feedback.advantages import GROUP_RULES, RULES, advantages, differ

F64 = torch.float64


def scores(values, groups, members=None):
    members = {k: torch.tensor(v, dtype=F64) for k, v in (members or {}).items()}
    return Scores(torch.as_tensor(values, dtype=F64), torch.as_tensor(groups), members, {})


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("rewards, suffix", [("in.rewards", ""), ("in.rewards_epoch2", "_epoch2_cleared")])
@pytest.mark.parametrize("rule, key", [("group mean, group std", 0), ("group mean, global std", 1)])
def test_flow_grpo_golden(golden, close, column, rewards, suffix, rule, key):
    file = golden("01b")
    out = advantages(scores(file[rewards][:, column], file["in.prompt_id"]), rule, clip=1e9)
    close(out.values, file[f"out.grpo_globalstd{key}{suffix}"][:, column], 1e-12)


@pytest.mark.parametrize("groups, key", [("in.prompt_id", "prompt"), ("in.trunk_id", "trunk")])
def test_branches_are_compared_with_those_of_their_step_golden(golden, close, groups, key):
    """TempFlow-GRPO: each step is normalised on its own."""
    file = golden("12b")
    rewards, steps = file["in.rewards"], torch.arange(9)
    out = advantages(
        scores(rewards.flatten(), (file[groups][:, None] * 9 + steps).flatten()), "group mean, group std", clip=1e9
    )
    close(out.values.view(48, 9), file[f"out.advantages_per_{key}_globalstd0"], 1e-12)


def test_zero_spread_golden(golden):
    file = golden("01b")
    out = advantages(scores(file["in.rewards"][:, 0], file["in.prompt_id"]))
    assert out.stats["zero_spread_groups"] / out.stats["groups"] == file["out.zero_std_ratio"]
    assert out.stats["zero_spread_groups"] > 0 and out.stats["used"] < len(out.values)
    assert not out.values[~out.used].any()


def test_mean_of_the_groups_spread_golden(golden, close):
    file = golden("01b")
    groups = file["in.prompt_id"]
    centred = advantages(scores(file["in.rewards"][:, 0], groups), "no std", clip=1e9).values
    spreads = torch.stack([centred[groups == group].std(correction=0) for group in groups.unique()])
    close(spreads.mean(), file["out.reward_std_mean"], 1e-12)


def test_batch_rule_golden(golden, close):
    file = golden("02c")
    out = advantages(scores(file["in.rewards_epoch0"], file["in.prompt_id_epoch0"]), "batch", clip=1e9)
    close(out.values, file["out.adv_no_tracking_epoch0"], 1e-12)


@pytest.mark.parametrize("file, ours, theirs, spread", [("01b", 1e-8, 1e-4, 0), ("05b", 1e-8, 1e-8, 1)])
def test_batch_rule_golden_once_the_epsilon_is_undone(golden, close, file, ours, theirs, spread):
    """Flow-GRPO adds 1e-4 to the batch's std, DanceGRPO takes the unbiased one; ours is DDPO's."""
    file = golden(file)
    r = (file["in.rewards"][:, 0] if spread == 0 else file["in.rewards"]).to(F64)
    out = advantages(scores(r, torch.arange(len(r)) % 3), "batch", clip=1e9)
    undone = out.values * (r.std(correction=0) + ours) / (r.std(correction=spread) + theirs)
    close(undone, (file["out.adv_no_tracking"][:, 0] if spread == 0 else file["out.adv_no_group"]), 1e-6)


def test_per_prompt_memory_golden_over_four_epochs(golden, close):
    file = golden("02c")
    memory, size, least = None, int(file.const("buffer_size")), int(file.const("min_count"))
    for epoch in range(4):
        batch = scores(file[f"in.rewards_epoch{epoch}"], file[f"in.prompt_id_epoch{epoch}"])
        before = json.dumps(memory)
        out = advantages(batch, "per-prompt memory", clip=1e9, memory=memory, memory_size=size, memory_least=least)
        assert json.dumps(memory) == before, "the old memory is a value"
        close(out.values, file[f"out.advantages_epoch{epoch}"], 1e-12)
        memory = json.loads(json.dumps(out.memory))
        for prompt, (mean, _, count) in enumerate(file[f"out.mean_count_epoch{epoch}"].tolist()):
            kept = memory.get(str(prompt), [])
            assert len(kept) == count
            assert not kept or sum(kept) / len(kept) == pytest.approx(mean)


def test_dance_grpo_std_differs_by_a_constant(golden, close):
    """DanceGRPO: unbiased std + 1e-8. Ours times (std + 1e-4) / (unbiased + 1e-8) is the official number."""
    file = golden("05b")
    n = int(file.const("num_generations"))
    r = file["in.rewards"].to(F64)
    out = advantages(scores(r, torch.arange(len(r)) // n), "group mean, group std", clip=1e9)
    groups = r.reshape(-1, n)
    ours, theirs = groups.std(1, correction=0) + 1e-4, groups.std(1) + 1e-8
    close((out.values.reshape(-1, n) * (ours / theirs)[:, None]).flatten(), file["out.group_advantages"], 1e-6)


def test_leave_one_out_by_hand():
    out = advantages(scores([1.0, 2.0, 6.0, 5.0, 5.5], [0, 0, 0, 1, 1]), "leave one out")
    torch.testing.assert_close(out.values, torch.tensor([1 - 4, 2 - 3.5, 6 - 1.5, -0.5, 0.5], dtype=F64))


def test_no_std_keeps_the_scale():
    out = advantages(scores([1.0, 2.0, 10.0, 30.0], [0, 0, 1, 1]), "no std", clip=100)
    torch.testing.assert_close(out.values, torch.tensor([-0.5, 0.5, -10, 10], dtype=F64))


@pytest.mark.parametrize("rule", RULES)
def test_failed_scores_are_left_out_of_everything(rule):
    values, groups = [0.1, 0.9, 0.4, 0.3, 0.2, 0.8], [4, 4, 4, 7, 7, 7]
    broken, more = [*values, math.nan, math.inf], [*groups, 4, 7]
    one = advantages(scores(values, groups, {"m": values}), rule)
    two = advantages(scores(broken, more, {"m": broken}), rule)
    torch.testing.assert_close(one.values, two.values[:6])
    assert two.stats["failed"] == 2 and not two.used[6:].any() and not two.values[6:].any()
    assert one.used.all() and one.memory == two.memory


@pytest.mark.parametrize("rule", RULES)
def test_all_failed_and_all_equal_use_nothing(rule):
    for value in (math.nan, 0.3):
        out = advantages(scores([value] * 4, [0, 0, 1, 1], {"m": [value] * 4}), rule)
        assert not out.used.any() and not out.values.any() and out.values.isfinite().all()


def test_rounding_is_not_spread():
    """float32 rewards of equal images differ in the last bit; group std would blow that up to +-1."""
    r = torch.tensor([21.7, 21.7 + 2e-6, 21.7, 3.0, 4.0, 5.0], dtype=torch.float32).to(F64)
    out = advantages(scores(r, [0, 0, 0, 1, 1, 1]), "group mean, group std")
    assert out.used.tolist() == [False] * 3 + [True] * 3 and out.stats["zero_spread_groups"] == 1


@pytest.mark.parametrize("rule", GROUP_RULES)
def test_groups_of_one_are_an_error_only_if_all_are(rule):
    with pytest.raises(ValueError, match="images per prompt"):
        advantages(scores([0.1, 0.2], [0, 1], {"m": [0.1, 0.2]}), rule)
    out = advantages(scores([0.1, 0.2, 0.5], [0, 1, 1], {"m": [0.1, 0.2, 0.5]}), rule)
    assert out.used.tolist() == [False, True, True] and out.stats["single_groups"] == 1


def test_groups_of_one_are_fine_without_groups():
    for rule in ("batch", "per-prompt memory"):
        assert advantages(scores([0.1, 0.2], [0, 1]), rule).used.all()


def test_clip():
    out = advantages(scores([0.0] * 99 + [1.0], [0] * 100), "group mean, group std", clip=2.5)
    assert out.values.max() == 2.5
    with pytest.raises(ValueError, match="clip"):
        advantages(scores([0.0, 1.0], [0, 0]), clip=0)


def test_scaling_one_reward_changes_nothing_when_each_is_normalised():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(12, dtype=F64, generator=g).tolist() for _ in range(2))
    groups = [i // 4 for i in range(12)]
    rule, weights = "each reward in its group", {"a": 0.7, "b": 0.3}
    small = advantages(scores(a, groups, {"a": a, "b": b}), rule, weights=weights)
    large = advantages(scores(a, groups, {"a": [1e3 * x for x in a], "b": [1e3 * x for x in b]}), rule, weights=weights)
    torch.testing.assert_close(small.values, large.values, atol=2e-3, rtol=0)
    assert abs(small.values.std(correction=0) - 1) < 1e-3 and small.values.mean().abs() < 1e-12
    other = advantages(scores(a, groups, {"a": a, "b": b}), rule, weights={"a": 0.3, "b": 0.7})
    assert (other.values - small.values).abs().max() > 0.1


def test_a_group_counts_if_any_of_its_rewards_differs():
    members = {"a": [1.0, 1.0, 0.0, 1.0], "b": [0.0, 1.0, 0.0, 1.0], "c": [0.0] * 4}
    s = scores([0.0] * 4, [0, 0, 1, 1], members)
    assert advantages(s, "each reward in its group").used.all()
    only_a = advantages(s, "each reward in its group", weights={"a": 1.0, "b": 0.0})
    assert only_a.used.tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="beauty"):
        advantages(s, "each reward in its group", weights={"beauty": 1.0})


def test_each_reward_takes_the_weights_of_a_sum_and_never_a_monitor():
    a, b, monitor, groups = [0.0, 1.0, 0.2, 0.4], [1.0, 0.0, 0.5, 0.1], [9.0, 0.0, 3.0, 1.0], [0, 0, 1, 1]
    rule, members = "each reward in its group", {"a": a, "b": b, "monitor": monitor}
    summed = replace(scores([0.0] * 4, groups, members), weights={"a": 1.0, "b": -2.0})
    expected = advantages(scores([0.0] * 4, groups, members), rule, weights={"a": 1.0, "b": -2.0})
    assert torch.equal(advantages(summed, rule).values, expected.values)
    ensemble = replace(scores(a, groups, members), weights={})
    assert torch.equal(advantages(ensemble, rule).values, advantages(scores(a, groups, {"a": a}), rule).values)


def test_unknown_rule_and_wrong_shapes():
    with pytest.raises(ValueError, match="leave one out"):
        advantages(scores([0.0, 1.0], [0, 0]), "median")
    with pytest.raises(ValueError, match="groups"):
        advantages(scores([0.0, 1.0], [0]))


def test_groups_without_spread_do_not_shrink_the_others_batch_std():
    a, groups = [0.1, 0.9, 0.4, 0.6], [0, 0, 1, 1]
    alone = advantages(scores(a, groups, {"a": a}), "each reward in its group")
    more, wider = [*a, 0.5, 0.5], [*groups, 2, 2]
    beside = advantages(scores(more, wider, {"a": more}), "each reward in its group")
    torch.testing.assert_close(beside.values[:4], alone.values)


def test_what_rewards_count_comes_along_with_the_mean_of_each_member():
    scored = scores([1.0, 2.0], [0, 0], {"a": [1.0, 3.0], "monitor": [5.0, 6.0]})
    scored = replace(scored, stats={"mean": 1.5, "std": 0.5, "images": 2.0, "prompts_cut": 3.0})
    stats = advantages(scored).stats
    assert stats["prompts_cut"] == 3 and stats["reward/a"] == 2 and stats["reward/monitor"] == 5.5
    assert not stats.keys() & {"mean", "std", "images"}


def test_each_reward_in_its_group_by_hand():
    """Group 0 differs in both rewards, group 1 in the second only, which counts half."""
    s = scores([0.0] * 4, [0, 0, 1, 1], {"a": [0.0, 1.0, 2.0, 2.0], "b": [1.0, 0.0, 0.0, 4.0]})
    out = advantages(s, "each reward in its group", weights={"a": 1.0, "b": 0.5})
    one, two = 0.25 / 0.5001, 1 / 2.0001
    whole = math.sqrt((one**2 + two**2) / 2) + 1e-4
    expected = torch.tensor([-one / whole, one / whole, -two / whole, two / whole], dtype=F64)
    torch.testing.assert_close(out.values, expected, rtol=1e-9, atol=0)


def test_what_counts_as_rounding():
    one, zero = torch.tensor(1.0, dtype=F64), torch.tensor(0.0, dtype=F64)
    assert differ(one + 1.5e-6, one) and not differ(one + 0.5e-6, one)
    assert not differ(zero, zero), "two scores of 0 are equal"
    assert differ(zero, -one * 1e-9) and differ(one * 1e-9, zero)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_of_a_rewards_graph_comes_along(rule):
    s = scores([0.1, 0.9, 0.4], [0, 0, 0])
    values = s.values.requires_grad_()
    for members, weights in (({"m": values}, None), ({"m": values}, {})):
        out = advantages(replace(s, members=members, weights=weights), rule)
        assert not out.values.requires_grad and not out.rewards.requires_grad


def test_the_counts_and_the_spread_of_the_raw_scores():
    stats = advantages(scores([1.0, 4.0, 7.0, 3.0, 3.0, math.nan], [0, 0, 1, 2, 2, 2])).stats
    counts = {"groups": 3, "zero_spread_groups": 1, "single_groups": 1, "failed": 1, "used": 2}
    assert counts.items() <= stats.items()
    assert stats["reward_mean"] == pytest.approx(18 / 5) and stats["reward_std"] == pytest.approx(math.sqrt(84 / 5 - 3.6**2))
    none = advantages(scores([math.nan] * 2, [0, 0])).stats
    assert math.isnan(none["reward_mean"]) and none["reward_std"] == 0 and none["used"] == 0 and none["failed"] == 2
