"""The jobs that are reckoned: of the host's own networks and of the recommended numbers."""

from __future__ import annotations

import sys

import pytest
import torch
from posttrain.tests.unit.trainers.policy.small_models import small_model
from posttrain.tools.host import ROOT
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.recipes.table import row

sys.path.append(str(ROOT))  # last, so that ComfyUI's nodes.py is not hidden
from benchmarks.scale import models


class Network(torch.nn.Module):
    """Two layers on 4 x 4 places, one of them with a text."""

    def __init__(self):
        super().__init__()
        self.own, self.text = torch.nn.Linear(16, 10, device="meta"), torch.nn.Linear(6, 8, device="meta")

    def forward(self, x, sigma, context, transformer_options):
        return self.own(x.flatten(1).expand(2, 16).float()), self.text(context.float())


def test_operations_are_multiplications_and_additions():
    model = models.Model("small", "", "", "", {"context": (1, 3, 6)})
    assert models.operations(model, Network(), (1, 4, 4)) == 2 * (2 * 16 * 10 + 3 * 6 * 8)


def test_numbers_of_a_lora_are_those_of_a_policy():
    model, recipe = small_model("sd3"), Recipe(rank=3)
    bank = create_policy(model, recipe).bank
    assert models.lora_numbers(model.model.diffusion_model, recipe) == sum(weight.numel() for weight in bank.values())


@pytest.mark.parametrize(
    "method, family, expected",
    [
        # guided: two evaluations of each of 20 steps; two random ones in the first half are trained on
        ("FlowGRPO", "Qwen-Image", dict(sampling=20, gradient=4, random=2, images=16, updates=2)),
        ("FlowGRPO", "SD3.5", dict(sampling=10, gradient=3, random=3, images=16, updates=2)),
        ("FlowGRPO", "Flux", dict(sampling=6, gradient=5, random=5, images=16, updates=2)),
        ("DDPO", "SDXL", dict(sampling=60, gradient=58, random=29, images=8, updates=2)),
        ("NFT", "SD3.5", dict(sampling=10, gradient=4, random=0, images=16, updates=1)),
    ],
)
def test_a_job_is_what_the_recipe_says(method, family, expected):
    network = small_model("sd3").model.diffusion_model
    found = models.job("x", network, (16, 128, 128), (1024, 1024, 3), row(method, family), 1.0, method)
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.latent, found.picture) == (16 * 128 * 128, 3 * 1024**2)
