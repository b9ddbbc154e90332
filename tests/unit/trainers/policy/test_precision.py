"""How much of a small LoRA shows: the estimate against what half-precision networks really answer."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from small_models import SIZE, prompts_for, small_model

RECIPE = Recipe(rank=8, alpha=8)


def answers(policy, bank, kind):
    random = torch.Generator().manual_seed(5)
    x = torch.randn(8, *SIZE[kind], generator=random)
    with open_policy(policy) as net, torch.no_grad():
        on = None if bank is None else net.to_device(bank)
        return net.denoise(x, torch.full((8,), 0.6), prompts_for(kind), [0, 1] * 4, 1.0, on).double()


def with_b(policy, size: float):
    random = torch.Generator().manual_seed(7)
    return {
        key: value if key.endswith("lora_A") else torch.randn(value.shape, generator=random).sign() * size
        for key, value in policy.bank.items()
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["sd3", "flux", "sdxl"])
def test_the_estimate_is_the_cosine_that_is_measured(kind, dtype):
    exact, half = create_policy(small_model(kind), RECIPE), create_policy(small_model(kind, dtype, dtype), RECIPE)
    for size in (3e-4, 1e-3, 3e-3, 1e-2):
        bank = with_b(exact, size)
        true = answers(exact, bank, kind) - answers(exact, None, kind)
        shown = answers(half, bank, kind) - answers(half, None, kind)
        cosine = float((true * shown).sum() / (true.norm() * shown.norm()))
        with open_policy(half) as net:
            assert net.share_shown(bank) == pytest.approx(cosine, abs=0.15), size
