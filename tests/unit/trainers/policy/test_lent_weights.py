"""Weights that the host lends a layer for one call (dynamic VRAM): trained through, without another copy of the model."""

from __future__ import annotations

import comfy.model_patcher
import pytest
import torch
import torch.nn.functional as F
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.frozen import through_frozen
from posttrain.trainers.policy.loading import load_together
from posttrain.trainers.policy.weights import freeze_for_autograd, lent
from small_models import SIZE, prompts_for, small_model


class Lent(torch.nn.Module):
    """As a layer of the host's with a ``_v``: its weight comes into a buffer that is somebody else's after the call."""

    def __init__(self, compute, *shape: int, **sizes):
        super().__init__()
        vars(self).update(sizes)
        self._v, self.compute = object(), compute
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(shape, generator=generator), requires_grad=False)
        self.bias = torch.nn.Parameter(torch.randn(shape[0], generator=generator), requires_grad=False)

    def forward(self, x):
        weight, bias = self.weight.clone(), self.bias.clone()
        y = self.compute(x, weight, bias)
        with torch.no_grad():
            weight.untyped_storage().fill_(255)  # not a number
            bias.untyped_storage().fill_(255)
        return y


LAYERS = {
    "linear": (Lent(F.linear, 8, 6, in_features=6, out_features=8), (2, 6)),
    "convolution": (
        Lent(
            lambda *a: F.conv2d(*a, padding=1),
            8,
            6,
            3,
            3,
            in_channels=6,
            out_channels=8,
            groups=1,
            kernel_size=(3, 3),
            stride=(1, 1),
            transposed=False,
        ),
        (2, 6, 5, 5),
    ),
    "video convolution": (Lent(lambda *a: F.conv3d(*a, padding=1), 8, 6, 3, 3, 3), (2, 6, 2, 5, 5)),
    "norm": (Lent(lambda x, w, b: F.layer_norm(x, w.shape, w, b), 6), (2, 6)),
    "group norm": (Lent(lambda x, w, b: F.group_norm(x, 3, w, b), 6), (2, 6, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_gradient_is_taken_of_the_weight_and_not_of_what_comes_after_it(kind):
    layer, shape = LAYERS[kind]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5)).requires_grad_()
    forward = through_frozen(layer, layer.forward)
    out = forward(x)
    (found,) = torch.autograd.grad(out.sin().sum(), x)
    (expected,) = torch.autograd.grad(layer.compute(x, layer.weight, layer.bias).sin().sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 6)], ids=["vectors", "tokens"])
def test_a_network_may_change_what_the_layer_answers(shape):
    """As Flux does with its first layer's."""
    layer, _ = LAYERS["linear"]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5)).requires_grad_()
    before = x.detach().clone()
    out = through_frozen(layer, layer.forward)(x)
    out += out.detach().sin()
    (found,) = torch.autograd.grad(out.sin().sum(), x)
    plain = layer.compute(x, layer.weight, layer.bias)
    (expected,) = torch.autograd.grad((plain + plain.detach().sin()).sin().sum(), x)
    torch.testing.assert_close(found, expected)
    assert torch.equal(x, before)


def test_what_the_host_has_noted_on_a_weight_stays_on_it():
    with torch.inference_mode():
        layer = torch.nn.Linear(4, 4)
        layer.register_buffer("table", torch.ones(4))
    layer.weight._model_dtype, layer.table._model_dtype = torch.float16, torch.bfloat16
    with lent(layer):
        freeze_for_autograd(layer)
        assert not layer.weight.is_inference() and not layer.table.is_inference()
        assert (layer.weight._model_dtype, layer.table._model_dtype) == (torch.float16, torch.bfloat16)
    assert layer.weight.is_inference() and vars(layer.weight) == {"_model_dtype": torch.float16}
    assert layer.table.is_inference() and vars(layer.table) == {"_model_dtype": torch.bfloat16}


class Dynamic(comfy.model_patcher.ModelPatcher):
    """Says that it is dynamic, and reads its file again where it is asked for a clone that is not."""

    def is_dynamic(self):
        return True

    def clone(self, disable_dynamic=False, **options):
        assert not disable_dynamic, "the whole checkpoint is read again"
        return super().clone(**options)

    def loaded_size(self):
        return 0  # of its weights nothing need be on the device


def test_the_checkpoint_is_read_once_and_nothing_is_moved_for_what_streams_itself(monkeypatch):
    model, beside = (
        Dynamic(m.model, m.load_device, m.offload_device) for m in (small_model("sd15"), small_model("sd15", seed=1))
    )
    policy = create_policy(model, Recipe(rank=2))
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        net.gradients(
            lambda: (net.denoise(torch.randn(1, *SIZE["sd15"]), torch.ones(1), prompts_for("sd15"), [0], 1.0, bank).sum(), {}),
            list(bank.values()),
        )
        assert all(leaf.grad is not None for leaf in bank.values())
    monkeypatch.setattr("comfy.model_management.free_memory", lambda *a, **k: pytest.fail("everything was moved out"))
    monkeypatch.setattr("posttrain.trainers.policy.loading.load_models", lambda *a, **k: None)
    load_together(model, [beside])
