"""A LoRA and its layer in one multiplication: the same answer and gradients as beside it, only where it pays and is exact."""

from __future__ import annotations

import copy

import comfy.ops
import pytest
import torch
import torch.nn.functional as F
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy import joined as module
from posttrain.trainers.policy.joined import PAYS, joined, joins
from posttrain.trainers.policy.kinds import KINDS, LORA, RS_LORA, member_of
from small_models import prompts_for, small_model

INS, OUTS, RANK, SCALE = 12, 20, 4, 1.5
ROWS = PAYS * INS * OUTS // (INS + OUTS)


def layer_of(bias: bool = True, dtype=torch.float32) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(INS, OUTS, bias=bias, dtype=dtype).requires_grad_(False)


def weights_of(dtype=torch.float32, train: bool = False):
    random = torch.Generator().manual_seed(1)
    shapes = ((RANK, INS), (OUTS, RANK))
    return [torch.randn(shape, generator=random).to(dtype).requires_grad_(train) for shape in shapes]


def beside(layer, x, a, b):
    """y + s x A^T B^T, in float64."""
    x, a, b, weight = (each.double() for each in (x, a, b, layer.weight))
    return F.linear(x, weight, None if layer.bias is None else layer.bias.double()) + SCALE * x @ a.T @ b.T


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 2), (2, ROWS, 1)])
def test_answer_and_gradients_are_those_of_a_lora_beside_its_layer(shape, bias):
    layer, (a, b) = layer_of(bias), weights_of(train=True)
    x = torch.randn(*shape, INS, generator=torch.Generator().manual_seed(2)).requires_grad_()
    with torch.no_grad():
        sampled = joined(layer, SCALE, x, a, b)
    y = joined(layer, SCALE, x, a, b)
    assert torch.equal(sampled, y), "the first ratio is one"
    expected = beside(layer, x, a, b)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad(y, (x, a, b), cotangent)
    wanted = torch.autograd.grad(expected, (x, a, b), cotangent.double())
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not y._is_view(), "a network may change what it is handed"


def test_the_gradient_by_finite_differences():
    """In float64, where the formula itself is tried."""
    layer, (a, b) = layer_of(dtype=torch.float64), weights_of(torch.float64, train=True)
    x = torch.randn(6, INS, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: module._Joined.apply(*inputs, layer.weight, layer.bias, SCALE), (x, a, b))


def test_what_wants_no_gradient_gets_none():
    layer, (a, b) = layer_of(), weights_of()
    x = torch.randn(ROWS, INS).requires_grad_()
    y = joined(layer, SCALE, x, a, b)
    y.sum().backward()
    assert x.grad is not None and a.grad is None and b.grad is None and layer.weight.grad is None


@pytest.mark.parametrize(
    "what",
    ["few rows", "half precision", "a half LoRA", "less precise multiplications", "the host casts it", "moved elsewhere"],
)
def test_beside_its_layer_where_it_does_not_pay_or_is_not_exact(what):
    layer, (a, b), x = layer_of(), weights_of(), torch.randn(ROWS, INS)
    assert joined(layer, SCALE, x, a, b) is not None
    if what == "few rows":
        x = x[: ROWS - 1]
    elif what == "half precision":
        layer, x = layer.bfloat16(), x.bfloat16()
    elif what == "a half LoRA":
        a = a.bfloat16()
    elif what == "the host casts it":
        layer.weight_function = [lambda weight: 2 * weight]
    elif what == "moved elsewhere":
        layer = layer.to("meta")
    before = torch.get_float32_matmul_precision()
    try:
        if what == "less precise multiplications":
            torch.set_float32_matmul_precision("medium")
        assert joined(layer, SCALE, x, a, b) is None
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_lora_of_a_plain_linear_layer(kind):
    plain, host = layer_of(), comfy.ops.disable_weight_init.Linear(INS, OUTS)
    for layer in (plain, host, comfy.ops.manual_cast.Linear(INS, OUTS)):
        assert joins(layer, member_of(layer, kind, RANK, 6.0)) == (kind in (LORA, RS_LORA))

    class Another(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    patched = copy.deepcopy(plain)
    patched.forward = lambda x: 2 * x
    convolution = torch.nn.Conv2d(INS, OUTS, 1)
    for layer in (Another(INS, OUTS), patched, convolution):
        assert not joins(layer, member_of(layer, LORA, RANK, 6.0))


@pytest.mark.parametrize("which", ["sd15", "sd3", "flux"])
def test_a_network_answers_and_learns_as_with_the_lora_beside_its_layers(which, monkeypatch):
    policy = create_policy(small_model(which), Recipe(rank=4, alpha=6.0, targets="all linear layers"))
    random = torch.Generator().manual_seed(7)
    for value in policy.bank.values():
        value.add_(torch.randn(value.shape, generator=random) * 0.05)
    shape, count = inputs_shape(which), 6
    x = torch.randn(count, *shape, generator=random)
    sigma = torch.full((count,), 0.6)

    def asked():
        taken = []
        plain = module._sum
        monkeypatch.setattr(module, "_sum", lambda *inputs: taken.append(1) or plain(*inputs))
        with open_policy(policy) as net:
            bank = net.to_device(policy.bank, train=True)
            with torch.no_grad():
                sampled = net.denoise(x, sigma, prompts_for(which), [0] * count, 1.0, bank)

            def loss():
                y = net.denoise(x, sigma, prompts_for(which), [0] * count, 1.0, bank)
                return y.square().mean(), y.detach()

            _, answer = net.gradients(loss, list(bank.values()))
        monkeypatch.setattr(module, "_sum", plain)
        assert torch.equal(sampled, answer), "the first ratio is one"
        return answer, {name: value.grad for name, value in bank.items()}, len(taken)

    monkeypatch.setattr(module, "PAYS", 0)  # these networks are small
    answer, gradients, taken = asked()
    monkeypatch.setattr(module, "PAYS", float("inf"))
    expected, wanted, never = asked()
    assert taken > 0 and never == 0
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, wanted[name], rtol=1e-3, atol=1e-5, msg=lambda words, name=name: f"{name}: {words}"
        )


def inputs_shape(which: str) -> tuple[int, ...]:
    from one_answer import inputs

    x, _ = inputs(which)
    return tuple(x.shape[1:])
