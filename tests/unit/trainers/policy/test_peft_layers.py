"""peft's LoRA layers as judges of the bank: the same frozen layer, A and B, and the same forward, gradients and start."""

from __future__ import annotations

import math

import comfy.ops
import pytest
import torch
from posttrain.trainers.policy.bank import STARTS, Overlay, Recipe, members_of, new_bank, trainable_layers

peft = pytest.importorskip("peft")
HOST = comfy.ops.manual_cast
TOKENS, MAPS = (2, 5, 12), (2, 12, 9, 9)
# the layer, of torch's or of the host's classes, and an input
LAYERS = {
    "linear": (lambda of: of.Linear(12, 20), TOKENS),
    "linear without a bias": (lambda of: of.Linear(12, 20, bias=False), TOKENS),
    "linear on one token": (lambda of: of.Linear(12, 20), (3, 12)),
    "convolution": (lambda of: of.Conv2d(12, 16, 3, padding=1), MAPS),
    "convolution of one pixel": (lambda of: of.Conv2d(12, 16, 1), MAPS),
    "convolution with strides": (lambda of: of.Conv2d(12, 16, 3, stride=2, padding=1), MAPS),
    # no dilation: peft's A has none, and its forward fails there
    "convolution of a column": (lambda of: of.Conv2d(12, 16, (3, 1), padding=(1, 0), bias=False), MAPS),
}
# rank, alpha, rsLoRA: alpha / sqrt(rank) in the place of alpha / rank (arXiv:2312.03732)
SCALES = [(1, 1.0, False), (4, 4.0, False), (4, 16.0, False), (3, 0.5, False), (4, 16.0, True), (9, 2.0, True)]
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}


def network(build, of, dtype) -> torch.nn.Module:
    """One layer named "layer", with the same weights for every class of layers."""
    net = torch.nn.Module()
    net.layer = build(of).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in net.layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
        parameter.requires_grad_(False)
    return net


def recipe_of(rank: int, alpha: float, rs: bool, start: str = "gaussian", seed: int = 0) -> Recipe:
    """rsLoRA is alpha times sqrt(rank)."""
    return Recipe(rank=rank, alpha=alpha * math.sqrt(rank) if rs else alpha, pattern="layer", start=start, seed=seed)


def peft_layer(build, dtype, rank: int, alpha: float, rs: bool, start: str = "gaussian"):
    net = network(build, torch.nn, dtype)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=rs,
        target_modules=["layer"],
        init_lora_weights=True if start == "kaiming" else start,
    )
    peft.inject_adapter_in_model(config, net)
    return net.layer.to(dtype)


def weights(build, dtype, recipe: Recipe) -> dict[str, torch.Tensor]:
    """A bank, no longer at its start."""
    bank = new_bank(trainable_layers(network(build, torch.nn, dtype), recipe), recipe)
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(dtype) for name, value in bank.items()}


def close(found: torch.Tensor, expected: torch.Tensor, dtype) -> None:
    scale = max(float(expected.detach().abs().max()), 1.0)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=EXACT[dtype] * scale)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("rank, alpha, rs", SCALES)
@pytest.mark.parametrize("kind", LAYERS)
def test_forward_and_gradients_are_those_of_peft(kind, rank, alpha, rs, dtype):
    build, shape = LAYERS[kind]
    recipe = recipe_of(rank, alpha, rs)
    bank = {name: value.requires_grad_() for name, value in weights(build, dtype, recipe).items()}
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)

    theirs = peft_layer(build, dtype, rank, alpha, rs)
    a, b = (getattr(theirs, part)["default"].weight for part in ("lora_A", "lora_B"))
    a.data.copy_(bank["layer.lora_A"].data)
    b.data.copy_(bank["layer.lora_B"].data)
    expected = theirs(x)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(dtype)
    (expected * weight).sum().backward()

    net = network(build, HOST, dtype)
    layers = trainable_layers(net, recipe)
    overlay = Overlay(net, layers, members_of(layers, recipe))
    overlay.inject()
    assert members_of(layers, recipe)["layer"].scale == pytest.approx(theirs.scaling["default"], rel=1e-15)
    reference = net.layer(y)
    overlay.active = bank
    found = net.layer(y)
    (found * weight).sum().backward()
    overlay.eject()

    close(found, expected, dtype)
    assert (found - reference).abs().max() > 0.01
    close(reference, theirs.base_layer(x), dtype)
    for ours, other in ((bank["layer.lora_A"], a), (bank["layer.lora_B"], b), (y, x)):
        assert other.grad.abs().max() > 0
        close(ours.grad, other.grad, dtype)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_starts_as_pefts_does(kind, start):
    """From the same random numbers the same A to the last digits, and B zero."""
    build, _ = LAYERS[kind]
    theirs = peft_layer(build, torch.float32, 4, 8.0, False, start)
    torch.manual_seed(11)
    theirs.reset_lora_parameters("default", True if start == "kaiming" else start)
    a, b = (getattr(theirs, part)["default"].weight.detach() for part in ("lora_A", "lora_B"))
    recipe = recipe_of(4, 8.0, False, start, seed=11)
    bank = new_bank(trainable_layers(network(build, HOST, torch.float32), recipe), recipe)
    torch.testing.assert_close(bank["layer.lora_A"], a, rtol=0.0, atol=1e-6)
    assert a.std() > 0.05 and bank["layer.lora_B"].shape == b.shape and not b.any() and not bank["layer.lora_B"].any()
