"""FID, KID and CMMD: by the formulas, beside scipy, term by term; and how sure a change is."""

from __future__ import annotations

import math

import pytest
import torch
from posttrain.rewards.base import distances
from posttrain.rewards.base.distances import CERTAIN, MEASURES, Distance, cmmd, fid, kid, measured

ROOM = 6


def drawn(count: int, seed: int, dimensions: int = ROOM) -> torch.Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(count: int, mean: torch.Tensor, covariance: torch.Tensor, seed: int) -> torch.Tensor:
    """[count, D] whose sample mean and covariance are exactly these."""
    rows = drawn(count, seed, len(mean))
    rows = rows - rows.mean(0)
    white = rows @ torch.linalg.inv(torch.linalg.cholesky(rows.T.cov())).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def test_fid_is_the_distance_of_two_gaussians():
    """Of diagonal covariances: the means' distance and that of the standard deviations, squared."""
    means, sigmas = drawn(2, 0), drawn(2, 1).abs() + 0.1
    one, two = (with_moments(40, mean, sigma.square().diag(), seed) for mean, sigma, seed in zip(means, sigmas, (2, 3)))
    expected = (means[0] - means[1]).square().sum() + (sigmas[0] - sigmas[1]).square().sum()
    assert fid(one, two) == pytest.approx(float(expected), rel=1e-10)
    assert fid(one, one) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("counts", [(50, 80), (12, 50), (12, 9)])
def test_fid_agrees_with_scipys_matrix_root(counts):
    """Full covariances, which do not commute; also of fewer pictures than features, where they have no full rank."""
    linalg = pytest.importorskip("scipy.linalg")
    one, two = drawn(counts[0], 4, 16) @ drawn(16, 5, 16), drawn(counts[1], 6, 16) + 1
    covariances = [each.T.cov() for each in (one, two)]
    root = torch.from_numpy(linalg.sqrtm((covariances[0] @ covariances[1]).numpy()).real)
    expected = (one.mean(0) - two.mean(0)).square().sum() + torch.trace(sum(covariances) - 2 * root)
    assert fid(one, two) == pytest.approx(float(expected), rel=1e-6)


def polynomial(a, b):
    return float((a @ b) / len(a) + 1) ** 3


def gaussian(a, b):
    a, b = a / a.norm(), b / b.norm()
    return 1000 * math.exp(-float((a - b).square().sum()) / (2 * 10.0**2))


@pytest.mark.parametrize("measure, kernel", [(kid, polynomial), (cmmd, gaussian)])
def test_a_discrepancy_is_its_sums_term_by_term(measure, kernel):
    one, two = drawn(5, 7) + 0.3, drawn(4, 8)
    within = [sum(kernel(a, b) for i, a in enumerate(each) for j, b in enumerate(each) if i != j) / (len(each) * (len(each) - 1))
              for each in (one, two)]  # fmt: skip
    across = sum(kernel(a, b) for a in one for b in two) / (len(one) * len(two))
    assert measure(one.float(), two.float()) == pytest.approx(sum(within) - 2 * across, rel=1e-4)
    assert measure(one, two) == pytest.approx(sum(within) - 2 * across, rel=1e-9)


@pytest.mark.parametrize("name", ["KID", "CMMD"])
def test_a_picture_that_is_drawn_twice_is_not_compared_with_itself(name):
    """Right on the average with any number, also for the sets that the bootstrap draws."""
    one, two = drawn(6, 9), drawn(6, 10)
    counts, once = torch.tensor([2.0, 1, 1, 1, 1, 0]).double(), torch.ones(6).double()
    answer = MEASURES[name](one, two)(counts, once)
    rows = [0, 0, 1, 2, 3, 4]
    repeated = MEASURES[name](one[rows], two)(once, once)  # compares the two first rows, which are one picture
    assert answer < repeated


@pytest.mark.parametrize("name", MEASURES)
def test_the_bootstrap_knows_how_far_a_change_scatters(name):
    """Its mean standard error beside the spread over 60 repetitions of the whole measurement."""
    found = []
    for seed in range(60):
        before = drawn(40, 3 * seed)
        after = before + 0.3 * drawn(40, 3 * seed + 1) + 0.15
        found.append(measured(name, drawn(40, 3 * seed + 2), after, before, seed))
    spread = float(torch.tensor([each.change for each in found]).std())
    assert sum(each.error for each in found) / len(found) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("name", MEASURES)
def test_what_moved_away_rises_and_what_did_not_does_not(name):
    before, reference = drawn(80, 11) + 2, drawn(80, 12) + 2  # off 0, for CMMD's directions
    turned = before * torch.tensor([-1.0, 1, 1, 1, 1, 1])
    assert measured(name, reference, turned, before).rises
    assert not measured(name, reference, drawn(80, 13) + 2, before).rises
    assert not measured(name, reference, before, turned).rises
    assert not measured(name, reference, turned).rises, "nothing was measured before"


def test_many_pictures_are_drawn_less_often(monkeypatch):
    calls = []
    monkeypatch.setitem(MEASURES, "FID", lambda one, two: lambda *counts: float(len(calls.append(1) or calls)))
    for count in (distances.MANY, distances.MANY + 1):
        calls.clear()
        measured("FID", torch.zeros(3, 2), torch.zeros(count, 2))
        assert len(calls) == 1 + (distances.DRAWS if count == distances.MANY else distances.FEWER)


def test_in_words():
    assert (
        Distance("KID", 1.5, 1.0, 0.1).words() == f"KID: 1 before, 1.5 after, +0.5 (95 %: +{0.5 - CERTAIN * 0.1:.3g} to +0.696)"
    )
    assert Distance("FID", 12.0, None, 1.0).words() == "FID 12 (95 %: 10 to 14)"


@pytest.mark.parametrize("name", MEASURES)
def test_what_cannot_be_measured_is_refused(name):
    with pytest.raises(ValueError, match="2 pictures or more in either set; there are 1 and 5"):
        measured(name, drawn(5, 0), drawn(1, 1))
    holed = drawn(5, 0)
    holed[2, 3] = math.nan
    with pytest.raises(ValueError, match="features of a picture are not finite"):
        measured(name, drawn(5, 1), holed)
