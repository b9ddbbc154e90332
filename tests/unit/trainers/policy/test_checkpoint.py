"""What autograd keeps for the backward pass, counted in bytes."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from small_models import SIZE, prompts_for, small_model, trained_policy


def kept_bytes(policy, kind: str, blocks: bool = False, recompute: bool = False) -> int:
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


def test_cast_copies_of_fp8_weights_are_not_kept_in_low_memory():
    """Autograd keeps the cast copy of each frozen weight; recomputed blocks drop it."""
    policy = create_policy(small_model("sd3", torch.float8_e4m3fn, torch.bfloat16), Recipe(rank=2))
    weights = sum(p.numel() for p in policy.model.model.diffusion_model.parameters())
    assert kept_bytes(policy, "sd3") > weights, "without low memory most bf16 copies are kept"
    assert kept_bytes(policy, "sd3", blocks=True) < weights
