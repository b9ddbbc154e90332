"""diffusers' networks as judges of ComfyUI's as the policy asks them: the same weights, what the host hands its network,
the same answer; with the bank laid over ComfyUI's layers, and added into diffusers' weights."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from small_models import SIZE, prompts_for

pytest.importorskip("diffusers")
pytest.importorskip("comfy.ldm.chroma_radiance", reason="older hosts than those of the small architectures")
from posttrain.tests.unit.trainers.policy.diffusers_families import (  # noqa: E402
    TWINS,
    answer,
    comfyui_model,
    diffusers_network,
    questions,
    seen_by,
)


def largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


def policy_of(twin):
    policy = create_policy(comfyui_model(twin), Recipe(rank=3, alpha=5.0, targets="all linear layers and convolutions"))
    generator = torch.Generator().manual_seed(7)
    for name, value in policy.bank.items():
        if name.endswith("lora_B"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return policy


def asked(policy, twin):
    """The network's question and answer, first of the reference and then of the policy."""
    x = torch.randn(2, *SIZE[twin.name], generator=torch.Generator().manual_seed(3))
    sigma = torch.full((2,), 0.7)
    with open_policy(policy) as net, torch.no_grad(), seen_by(net.diffusion_model) as seen:
        for bank in (None, net.to_device(policy.bank)):
            net.denoise(x, sigma, prompts_for(twin.name), [0, 0], 1.0, bank)
    return seen


def with_bank(policy) -> dict[str, torch.Tensor]:
    """The network's weights with alpha / rank B A added, in float64."""
    weights = dict(policy.model.model.diffusion_model.state_dict())
    for name in policy.bank:
        layer, part = name.rsplit(".", 1)
        if part == "lora_A":
            a, b = (policy.bank[f"{layer}.{part}"].double() for part in ("lora_A", "lora_B"))
            weight = weights[f"{layer}.weight"]
            added = (b.flatten(1) @ a.flatten(1)).reshape(weight.shape) * policy.recipe.alpha / policy.recipe.rank
            weights[f"{layer}.weight"] = (weight.double() + added).float()
    return weights


@pytest.mark.parametrize("name", TWINS)
def test_the_network_answers_as_diffusers_does(name):
    twin = TWINS[name]
    policy = policy_of(twin)
    reference, trained = asked(policy, twin)
    plain = diffusers_network(twin, policy.model.model.diffusion_model.state_dict())
    changed = diffusers_network(twin, with_bank(policy))
    scale = float(reference.answer.abs().max())
    assert largest(answer(plain, twin, reference), reference.answer) <= 1e-5 * scale
    change = largest(trained.answer, reference.answer)
    assert change > 0.05 * scale and torch.equal(trained.x, reference.x)
    assert largest(answer(changed, twin, trained), trained.answer) <= 1e-4 * change


@pytest.mark.parametrize("name", ["SD1.5", "SD3, SD3.5", "Flux", "Lumina 2"])
def test_the_host_asks_its_network_as_the_policy_does(name):
    """What KSampler hands over is what diffusers is asked above."""
    twin = TWINS[name]
    model = comfyui_model(twin)
    network = diffusers_network(twin, model.model.diffusion_model.state_dict())
    for question in questions(model, twin):
        scale = float(question.answer.abs().max())
        assert largest(answer(network, twin, question), question.answer) <= 1e-5 * scale
