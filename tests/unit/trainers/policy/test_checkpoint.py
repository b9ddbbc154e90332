"""What autograd keeps for the backward pass, counted in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from architectures import HERE  # noqa: F401 - Qwen-Image among them
from posttrain.trainers.engine.update import Optimizer, update
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.checkpoint import checkpointed
from small_models import SIZE, prompts_for, small_model, trained_policy


def kept_bytes(policy, kind: str, blocks: bool | int = False, recompute: bool = False) -> int:
    """Bytes of distinct storages saved by the forward of one micro-batch, the model's own weights not counted."""
    generator = torch.Generator().manual_seed(1)
    x, sigma = torch.randn(8, *SIZE[kind], generator=generator), torch.full((8,), 0.5)
    own = {t.untyped_storage().data_ptr() for t in policy.model.model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        net.recomputing_blocks(blocks)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = net.denoise(x, sigma, prompts_for(kind), [0, 1] * 4, 1.0, bank, recompute=recompute)
        held = sum(seen.values())
        del out
    return held


@pytest.mark.parametrize("kind", ["sd15", "sd3", "lumina"])
def test_low_memory_keeps_a_fraction(kind):
    policy = trained_policy(kind)
    plain = kept_bytes(policy, kind)
    assert kept_bytes(policy, kind, recompute=True) < 0.25 * plain
    assert kept_bytes(policy, kind, blocks=True) < 0.75 * plain


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_as_many_blocks_are_recomputed_as_are_asked_for(kind):
    """Each saves something more, all are all, and the gradient stays."""
    policy = trained_policy(kind)
    with open_policy(policy) as net:
        count = net.blocks
    kept = [kept_bytes(policy, kind, blocks=blocks) for blocks in range(count + 1)]
    assert count > 1 and kept == sorted(kept, reverse=True) and len(set(kept)) == count + 1
    assert kept[0] == kept_bytes(policy, kind) and kept[-1] == kept_bytes(policy, kind, blocks=True)
    found = [bank_gradient(policy, kind, blocks) for blocks in (0, 1, count)]
    for gradient in found[1:]:
        assert float((gradient - found[0]).norm() / found[0].norm()) < 1e-5


def bank_gradient(policy, kind: str, blocks: int) -> torch.Tensor:
    x = torch.randn(2, *SIZE[kind], generator=torch.Generator().manual_seed(2))
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        net.recomputing_blocks(blocks)
        net.gradients(
            lambda: (net.denoise(x, torch.full((2,), 0.5), prompts_for(kind), [0, 1], 1.0, bank).square().sum(), {}),
            list(bank.values()),
        )
    return torch.cat([weight.grad.flatten() for weight in bank.values()])


def test_cast_copies_of_fp8_weights_are_not_kept_in_low_memory():
    """Autograd keeps the cast copy of each frozen weight; recomputed blocks drop it."""
    policy = create_policy(small_model("sd3", torch.float8_e4m3fn, torch.bfloat16), Recipe(rank=2))
    weights = sum(p.numel() for p in policy.model.model.diffusion_model.parameters())
    assert kept_bytes(policy, "sd3") > weights, "without low memory most bf16 copies are kept"
    assert kept_bytes(policy, "sd3", blocks=True) < weights


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


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("read", ["both", "first", "second"])
def test_what_nothing_reads_has_no_gradient(recompute, read):
    """None and not zeros, which an optimizer would take for a gradient: the last block of some networks has such outputs."""

    def block(weights, x):
        return x * weights[0], x + weights[1], x.cos()

    weights = [value.requires_grad_() for value in drawn(2)]
    run = checkpointed if recompute else lambda function, model, *args: function(*args)
    first, second, third = run(block, torch.nn.Identity(), weights, torch.ones(3))
    ({"both": first + second, "first": first, "second": second}[read] + third).sum().backward()
    assert [weight.grad is not None for weight in weights] == [read != "second", read != "first"]


def test_a_block_whose_trained_part_nothing_reads():
    (weight,) = [value.requires_grad_() for value in drawn(1)]
    _, plain = checkpointed(lambda weights, x: (x * weights[0], x.sin()), torch.nn.Identity(), [weight], torch.ones(3))
    plain.sum().backward()
    assert weight.grad is None


@pytest.mark.parametrize("kind", ["Qwen-Image", "sd3"])
def test_a_step_is_the_same_in_low_memory_to_the_last_layer(kind):
    """Qwen-Image's last block has layers that no picture depends on: weight decay must not move them in one way alone."""
    policy, prompts = trained_policy(kind), prompts_for(kind)
    x, micro = torch.randn(2, *SIZE[kind], generator=torch.Generator().manual_seed(3)), SimpleNamespace(size=2)

    def evaluate(net, bank, micro):
        return net.denoise(x, torch.tensor([0.8, 0.4]), prompts, [0, 1], 1.0, bank).square().mean(), {}

    plain, low = (update(policy, [[micro]], evaluate, Optimizer(weight_decay=0.5, low_memory=low)) for low in (False, True))
    assert plain.metrics["updates"] == 1 and not plain.optimizer.keys() ^ low.optimizer.keys()
    for key, value in plain.bank.items():
        torch.testing.assert_close(low.bank[key], value, msg=key)
    still = [key for key, value in plain.bank.items() if torch.equal(value, policy.bank[key])]
    assert bool(still) == (kind == "Qwen-Image")
