from __future__ import annotations

import pytest
import torch
from posttrain.trainers.noise.paths import EPS, FLOW, PATHS, V, expand, noise_share, sigma_at

SIGMA = torch.tensor([0.02, 0.3, 0.7, 0.999], dtype=torch.float64)


def batch():
    g = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 5, 5, generator=g, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("scale", [1.0, 14.6])
def test_every_conversion_is_the_inverse_of_the_other(path, scale):
    x0, noise = batch()
    sigma = SIGMA if path == FLOW else SIGMA * scale
    x = path.add_noise(x0, noise, sigma)
    torch.testing.assert_close(path.noise(x, x0, sigma), noise)
    torch.testing.assert_close(path.x0(x, path.target(x0, noise, sigma), sigma), x0)
    other = x0 + 0.1 * noise
    torch.testing.assert_close(path.x0(x, path.prediction(x, other, sigma), sigma), other)
    torch.testing.assert_close(path.prediction(x, x0, sigma), path.target(x0, noise, sigma))


def test_flow_at_sigma_one_is_pure_noise():
    x0, noise = batch()
    torch.testing.assert_close(FLOW.add_noise(x0, noise, torch.ones(4, dtype=torch.float64)), noise)


def test_x0_agrees_with_the_hosts_own_conversion():
    sampling = pytest.importorskip("comfy.model_sampling")
    x, out = batch()
    for path, host in ((EPS, sampling.EPS()), (V, sampling.V_PREDICTION()), (FLOW, sampling.CONST())):
        host.sigma_data = 1.0
        sigma = SIGMA if path == FLOW else SIGMA * 10
        torch.testing.assert_close(path.x0(x, out, sigma), host.calculate_denoised(expand(sigma, x), out, x))
        if path == FLOW:
            x0, noise = batch()
            theirs = host.noise_scaling(expand(sigma, x), noise, x0)
            torch.testing.assert_close(path.add_noise(x0, noise, sigma), theirs)


def test_v_target_in_the_papers_variance_preserving_form():
    x0, noise = batch()
    bar = 1 / (1 + expand(SIGMA, x0) ** 2)
    torch.testing.assert_close(V.target(x0, noise, SIGMA), bar.sqrt() * noise - (1 - bar).sqrt() * x0)


@pytest.mark.parametrize("path", PATHS.values())
def test_the_share_of_noise_and_its_inverse(path):
    share = torch.tensor([0.05, 0.3, 0.9])
    torch.testing.assert_close(noise_share(path, sigma_at(path, share)), share)
