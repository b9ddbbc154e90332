"""Which of two is better by blind comparisons: estimate, interval, sides."""

import math

import pytest
from posttrain.trainers.data.blind import bradley_terry, sides, win_share


def likelihood(b, wins, losses, ties):
    won, lost = -math.log1p(math.exp(-b)), -math.log1p(math.exp(b))
    return wins * won + losses * lost + ties * (won + lost) / 2


@pytest.mark.parametrize(("wins", "losses", "ties"), [(7, 3, 0), (1, 9, 5), (12, 12, 1), (3, 2, 40)])
def test_the_strength_is_the_most_likely_one(wins, losses, ties):
    best, h = bradley_terry(wins, losses, ties).strength, 1e-5
    slope = (likelihood(best + h, wins, losses, ties) - likelihood(best - h, wins, losses, ties)) / (2 * h)
    assert abs(slope) < 1e-6
    assert all(likelihood(best, wins, losses, ties) > likelihood(best + away, wins, losses, ties) for away in (-0.1, 0.1))


@pytest.mark.parametrize(("wins", "losses", "ties"), [(7, 3, 0), (1, 9, 5), (3, 2, 40)])
def test_the_ends_are_the_strengths_that_the_share_is_just_possible_under(wins, losses, ties):
    """Wilson's: the share lies 1.96 standard errors, as a coin of that strength has them, from either end."""
    found, count = bradley_terry(wins, losses, ties), wins + losses + ties
    for end in (found.low, found.high):
        chance = 1 / (1 + math.exp(-end))
        away = abs((wins + ties / 2) / count - chance) / math.sqrt(chance * (1 - chance) / count)
        assert away == pytest.approx(1.959963984540054, abs=1e-9)


@pytest.mark.parametrize("count", [10, 20, 50])
def test_the_interval_holds_the_truth_as_often_as_it_says(count):
    """Exactly, over every outcome: 95 % in the mean over strengths, and nowhere far below."""
    held = []
    for true in [number / 10 for number in range(-20, 21)]:
        chance = 1 / (1 + math.exp(-true))
        held.append(sum(math.comb(count, wins) * chance**wins * (1 - chance) ** (count - wins) for wins in range(count + 1)
                        if bradley_terry(wins, count - wins).low <= true <= bradley_terry(wins, count - wins).high))  # fmt: skip
    assert sum(held) / len(held) == pytest.approx(0.95, abs=0.015)
    assert min(held) > 0.86


def test_the_other_way_round_it_is_the_other_way_round():
    one, other = bradley_terry(9, 4, 3), bradley_terry(4, 9, 3)
    assert (one.strength, one.low, one.high) == pytest.approx((-other.strength, -other.high, -other.low))
    assert bradley_terry(5, 5, 2).strength == 0


def test_what_is_not_known_is_left_open():
    assert bradley_terry(0, 0, 0) == (0, -math.inf, math.inf)
    assert win_share(0, 0, 0) == (0.5, 0, 1)
    all_won = bradley_terry(6, 0)
    assert all_won.strength == all_won.high == math.inf and 0 < all_won.low < math.inf
    assert bradley_terry(4, 0).low > 0 > bradley_terry(3, 0).low > bradley_terry(0, 0, 6).low
    with pytest.raises(ValueError, match="none of which is below 0: 1, -1, 0"):
        bradley_terry(1, -1)


def test_half_of_them_are_turned_round_in_an_order_of_the_seed():
    assert sides(0, 1) == []
    for n in (1, 2, 7, 40):
        many = [sides(n, seed) for seed in range(200)]
        assert all(len(turned) == n and abs(2 * sum(turned) - n) <= 1 for turned in many)
        for place in range(n):
            assert 60 <= sum(turned[place] for turned in many) <= 140  # 100 +- 7 by chance
    assert sides(40, 3) == sides(40, 3) != sides(40, 4)
