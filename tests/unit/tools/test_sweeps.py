"""What the whole suite runs of a test with more cases than it has time for."""

from __future__ import annotations

from itertools import product

import pytest
from posttrain.tools.sweeps import covering


@pytest.mark.parametrize("sizes", [(3, 4), (22, 3, 4), (1, 1), (5,), (2, 3, 5, 7)])
def test_every_value_stays_and_few_cases_do(sizes):
    cases = [list(enumerate(case)) for case in product(*map(range, sizes))]
    kept = covering(cases)
    assert {value for number in kept for value in cases[number]} == {value for case in cases for value in case}
    assert len(kept) == max(sizes)  # of a whole product no value needs more


def test_common_values_take_turns():
    cases = [[("trainer", trainer), ("placement", placement)] for trainer in range(22) for placement in range(3)]
    placements = [cases[number][1][1] for number in covering(cases)]
    assert sorted(map(placements.count, range(3))) == [7, 7, 8]


def test_what_is_found_together_only_stays_together():
    cases = [[("kind", "sd3"), ("placement", "whole")], [("kind", "flux"), ("placement", "streamed")], [("kind", "sd3")]]
    assert covering(cases) == {0, 1}


@pytest.mark.sweep
@pytest.mark.parametrize("pair", [("a", 1), ("a", 2), ("b", 1), ("b", 2)])
def test_here_two_of_four_cases_are_left_out(pair, request):
    items = [item for item in request.session.items if item.originalname == request.node.originalname]
    left_out = [item.callspec.params["pair"] for item in items if item.get_closest_marker("rest_of_sweep")]
    assert (len(items), left_out) in ((4, [("a", 2), ("b", 1)]), (2, []), (1, [])) and pair
