"""A pass that never reaches its backward leaves nothing in memory, whatever the network does to its activations."""

from __future__ import annotations

import functools
import gc
import weakref

import comfy.model_management as management
import pytest
import torch
from posttrain.trainers.policy import checkpoint, open_policy
from small_models import ARCHITECTURES, SIZE, prompts_for, trained_policy

CANCEL, FULL, ERROR = management.InterruptProcessingException, management.OOM_EXCEPTION, KeyError
WAYS = {"plain": {}, "recompute": {"recompute": True}, "blocks": {"blocks": True}}


@pytest.fixture(autouse=True)
def nothing_is_known_of_any_network(monkeypatch):
    monkeypatch.setattr(checkpoint, "_mutating_models", set())
    monkeypatch.setattr(checkpoint, "_plain_models", set())


def broken_off(policy, kind: str, error: type[BaseException] | None, recompute: bool = False, blocks: bool = False):
    """Weak references to all leaves and latents of a pass that ends in this error after its network has run."""
    leaves: list[weakref.ref] = []
    with open_policy(policy) as net:
        net.recomputing_blocks(blocks)

        def loss_of():
            bank = net.to_device(policy.bank, train=True)
            x = torch.randn(2, *SIZE[kind]).requires_grad_()
            leaves.extend(weakref.ref(leaf) for leaf in [*bank.values(), x])
            out = net.denoise(x, torch.tensor([0.8, 0.4]), prompts_for(kind), [0, 1], 2.0, bank, recompute=recompute)
            if error is not None:
                raise error("for this test")
            return out.sum(), {}

        if error is None:
            net.gradients(loss_of, [])
        else:
            with pytest.raises(error):
                net.gradients(loss_of, [])
    return leaves


policy_of = functools.cache(trained_policy)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_nothing_is_left(kind, way):
    ends = {"cancel": CANCEL, "out of memory": FULL, "error": ERROR, "the first step": None}
    leaves = {end: broken_off(policy_of(kind), kind, error, **WAYS[way]) for end, error in ends.items()}
    gc.collect()
    left = {end: sum(leaf() is not None for leaf in of_it) for end, of_it in leaves.items()}
    assert all(leaves.values()) and not any(left.values()), left


@pytest.mark.parametrize("known", [False, True])
def test_a_network_that_overwrites_is_still_found_out(known):
    """Also in the place where a tensor that was saved stands for itself."""

    class Overwrites(torch.nn.Module):
        def forward(self, x):
            y = x * x.sigmoid()
            x += y
            return x

    model, w = Overwrites(), torch.ones(4, requires_grad=True)
    if known:
        checkpoint.remember_plain(model)
    with checkpoint.mutation_guard(model), pytest.raises(RuntimeError) as found:
        model(w * 2).sum().backward()
    assert checkpoint.is_mutation_error(found.value) and w.grad is None
    checkpoint.remember_mutation(model)
    with checkpoint.mutation_guard(model):
        model(w * 2).sum().backward()
    x = torch.full((4,), 2.0, requires_grad=True)
    (x + x * x.sigmoid()).sum().backward()
    torch.testing.assert_close(w.grad, 2 * x.grad)
