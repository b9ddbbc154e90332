"""Weights that cannot be shared out are refused by name, before anything is changed; real processes share in tests/simulated."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base import ranks
from posttrain.trainers.policy.shared_weights import check_shareable, shared_out


class Packed(torch.nn.Parameter):
    """As packs bring weights that are unpacked when a layer asks."""


@pytest.fixture
def sharing(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "_sharing", True)


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))


def test_packed_weights(sharing):
    made = network()
    made[1].weight = Packed(torch.zeros(2, 2), requires_grad=False)
    refused = pytest.raises(ValueError, match=r"--share-weights: the model's 1\.weight is packed \(Packed\)")
    with refused, shared_out(made, [made[0]], torch.device("cpu")):
        pass
    assert type(made[0]) is torch.nn.Linear and not made[0]._forward_hooks


def test_fp8(sharing):
    made = network().to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"0\.weight is float8_e4m3fn, .* 16 bit"):
        check_shareable(made)
    check_shareable(network().to(torch.bfloat16))


def test_dynamic_vram(sharing):
    made = network()
    made[1]._v = object()
    with pytest.raises(ValueError, match="--disable-dynamic-vram"):
        check_shareable(made)


def test_without_the_option_nothing_is_touched():
    made = network()
    with shared_out(made, [made[0]], torch.device("cpu")):
        assert type(made) is torch.nn.Sequential and not made._forward_hooks
