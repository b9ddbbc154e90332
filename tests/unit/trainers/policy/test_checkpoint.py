"""What recomputation must look into so that no gradient is lost without a word."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from posttrain.trainers.policy.checkpoint import checkpointed


@dataclass(frozen=True)
class Modulation:
    """As Flux.2's and others' blocks hand them on."""

    shift: torch.Tensor
    name: str


@dataclass
class Nested:
    inner: Modulation
    scale: torch.Tensor


class Opaque:
    """Holds a tensor where nobody can see it."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


def gradients(run, *leaves) -> list[torch.Tensor]:
    fresh = [leaf.clone().requires_grad_() for leaf in leaves]
    return list(torch.autograd.grad(run(*fresh), fresh))


def drawn(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_go_through_dataclasses(recompute):
    """In and out, nested, in lists and dicts; the fields that are no tensors stay as they are."""

    def block(weights, x, given):
        shift = x * weights[0] + given["parts"][0].inner.shift * given["parts"][0].scale
        return [Modulation(shift, given["parts"][0].inner.name), x.sin()]

    def loss(w, x, a, b):
        given = {"parts": [Nested(Modulation(a * 2, "kept"), b.exp())]}
        out, sine = checkpointed(block, torch.nn.Identity(), [w], x, given) if recompute else block([w], x, given)
        assert out.name == "kept"
        return (out.shift * sine).sum()

    w, x, a, b = drawn(4)
    shift = x * w + 2 * a * b.exp()
    expected = [x * x.sin(), w * x.sin() + shift * x.cos(), 2 * b.exp() * x.sin(), 2 * a * b.exp() * x.sin()]
    for found, right in zip(gradients(loss, w, x, a, b), expected):
        torch.testing.assert_close(found, right)


def test_what_cannot_be_looked_into_keeps_its_activations():
    def block(weights, x):
        return Opaque(x * weights[0])

    (found,) = gradients(lambda w: checkpointed(block, torch.nn.Identity(), [w], torch.ones(3)).tensor.sum(), torch.ones(3))
    assert torch.equal(found, torch.ones(3))
