"""The host's switch for kernels without a gradient is on while a policy is open, and as it was afterwards."""
from __future__ import annotations

import comfy.model_management as management
import pytest
import torch
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.kernels import in_words_of_kernels
from small_models import trained_policy


@pytest.mark.parametrize("before", [False, True])
def test_the_switch_is_on_inside_and_as_it_was_afterwards(monkeypatch, before):
    monkeypatch.setattr(management, "in_training", before, raising=False)
    with open_policy(trained_policy("sd3")):
        assert management.in_training is True
    assert management.in_training is before
    with pytest.raises(KeyError), open_policy(trained_policy("sd3")):
        raise KeyError
    assert management.in_training is before


def test_a_host_without_the_switch_gets_none(monkeypatch):
    monkeypatch.delattr(management, "in_training", raising=False)
    with open_policy(trained_policy("sd3")):
        assert not hasattr(management, "in_training")
    assert not hasattr(management, "in_training")


def test_a_kernel_without_a_gradient_is_named():
    """The words of torch itself, from an operator that nobody gave a gradient."""
    @torch.library.custom_op("comfy_kitchen::posttrain_probe", mutates_args=())
    def probe(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    with pytest.raises(RuntimeError) as torch_says:
        probe(torch.ones(2, requires_grad=True)).sum().backward()
    assert "kernel that has no gradient" in str(in_words_of_kernels(torch_says.value))
    assert in_words_of_kernels(RuntimeError("one of the variables needed for gradient computation")) is None
