"""Attention that a network calls past the host's override: trained through, or named before anything is learnt."""

from __future__ import annotations

import sys

import comfy.ldm.modules.attention as host
import pytest
import torch
from architectures import HERE
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from small_models import SIZE, prompts_for, small_model

PAST = ("PixArt alpha", "PixArt sigma", "Hunyuan-DiT")
WORDS = r"^model: \w+ computes its attention by without_backward, which has no gradient.*--use-sage-attention"


def without_backward(*args, **kwargs):
    """Any of the host's functions that a flag may choose: its answer, by a kernel that knows of no gradient."""
    return host.attention_pytorch(*args, **kwargs).detach()


@pytest.fixture
def flag(monkeypatch):
    """The host's choice of attention, as a flag makes it before its networks import it."""
    chosen = (host.optimized_attention, host.optimized_attention_masked)
    wrapped = host.wrap_attn(without_backward)
    for module in [m for n, m in sys.modules.items() if n.startswith("comfy.")]:
        for attribute, value in list(vars(module).items()):
            if any(value is one for one in chosen) and not attribute.startswith("attention_"):
                monkeypatch.setattr(module, attribute, wrapped)


def gradients(name: str, pattern: str) -> dict[str, torch.Tensor]:
    policy = create_policy(small_model(name), Recipe(rank=2, pattern=pattern))
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(2, *SIZE[name], generator=generator) for _ in range(2))
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        answer = lambda: net.denoise(x, torch.tensor([0.8, 0.4]), prompts_for(name), [0, 1], 2.0, bank)  # noqa: E731
        net.gradients(lambda: ((answer() * weight).sum(), {}), list(bank.values()))
        return {key: leaf.grad for key, leaf in bank.items() if leaf.grad is not None}


@pytest.mark.parametrize("pattern", ["attn", "mlp", "attn|mlp"])
@pytest.mark.parametrize("name", PAST)
def test_a_network_that_hands_on_no_options_is_named(flag, name, pattern):
    with pytest.raises(RuntimeError, match=WORDS):
        gradients(name, pattern)


@pytest.mark.parametrize("name", ["SD1.5", "SD3, SD3.5", "Flux", "Wan 2.1", "AuraFlow"])
def test_others_are_trained_through(monkeypatch, request, name):
    expected = gradients(name, ".")
    request.getfixturevalue("flag")
    found = gradients(name, ".")
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-7, msg=key)


@pytest.mark.parametrize("name", PAST)
def test_no_module_is_watched_where_attention_has_a_gradient(name):
    with open_policy(create_policy(small_model(name), Recipe(rank=2, pattern="attn"))) as net:
        assert not any(module._forward_hooks for module in net.diffusion_model.modules())
    assert name in HERE
