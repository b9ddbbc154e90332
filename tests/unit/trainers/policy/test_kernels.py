"""Kernels without a gradient: the host's switch is on while a policy is open; what it does not switch off gets a gradient."""
from __future__ import annotations

import sys

import comfy.model_management as management
import pytest
import torch
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.kernels import give_gradient, in_words_of_kernels
from small_models import trained_policy

# of every kernel of comfy_kitchen that computes with plain numbers: its arguments by name
TOKENS = {"x": (2, 5, 3, 8), "q": (2, 5, 3, 8), "k": (2, 5, 3, 8), "xq": (2, 5, 3, 8), "xk": (2, 5, 3, 8)}
SHAPES = {**TOKENS, "freqs_cis": (1, 5, 1, 4, 2, 2), "q_scale": (8,), "k_scale": (8,), "scale": (8,), "shift": (8,)}
OWN_SHAPES = {"na3d": dict.fromkeys("qkv", (1, 2, 3, 3, 2, 4))}
NUMBERS = {"epsilon": 1e-6, "eps": 1e-6, "rot_dim": 0, "kernel_size": [1, 3, 3], "is_causal": [False] * 3}
OWN_NUMBERS = {"na3d": {"scale": None}}
FEW_BITS = ("quantize", "int8", "int4", "w4a", "awq", "scaled_mm", "fp8")  # in the names of those that round


def kernels() -> dict:
    """Of this host, by name: those that torch knows and that change nothing in place."""
    registry = getattr(sys.modules.get("comfy_kitchen.registry"), "registry", None)
    names = registry.list_backends()["eager"]["capabilities"] if registry else []
    found = {name: getattr(getattr(torch.ops.comfy_kitchen, name, None), "default", None) for name in names}
    return {name: op for name, op in found.items() if op is not None and not op._schema.is_mutable}


def inputs_of(name: str, op) -> dict:
    generator, values = torch.Generator().manual_seed(3), {}
    shapes = {**SHAPES, **OWN_SHAPES.get(name, {})}
    for argument in op._schema.arguments:
        own = OWN_NUMBERS.get(name, {})
        if argument.name in own or argument.name in NUMBERS:
            values[argument.name] = {**NUMBERS, **own}[argument.name]
        else:  # a new kernel's argument has no shape yet: give it one
            values[argument.name] = torch.randn(shapes[argument.name], generator=generator)
    return values


def weighed(out) -> torch.Tensor:
    parts = out if isinstance(out, (tuple, list)) else (out,)
    return sum((part.double() * torch.linspace(-1, 1, part.numel()).double().view(part.shape)).sum() for part in parts)


def backward(run) -> None:
    """With the gradients that the pack gives on the way."""
    for _ in range(2):
        try:
            return weighed(run()).backward()
        except RuntimeError as error:
            if not give_gradient(error):
                raise
    weighed(run()).backward()


@pytest.mark.skipif(not kernels(), reason="this ComfyUI has no fused kernels")
@pytest.mark.parametrize("name", [name for name in kernels() if not any(part in name for part in FEW_BITS)])
def test_every_kernel_of_the_host_gets_the_gradient_of_finite_differences(name):
    values = inputs_of(name, op := kernels()[name])
    before = op(*values.values())
    leaves = {key: value.clone().requires_grad_() for key, value in values.items() if isinstance(value, torch.Tensor)}
    backward(lambda: op(*{**values, **leaves}.values()))
    for key, leaf in leaves.items():
        direction, step = leaf.grad / leaf.grad.norm(), 1e-2
        with torch.no_grad():
            ends = [weighed(op(*{**values, key: values[key] + sign * step * direction}.values())) for sign in (1, -1)]
        assert float(leaf.grad.norm()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=5e-3), key
    after = op(*values.values())
    assert all(torch.equal(a, b) for a, b in zip(before, after)), "the kernel itself is not touched"


@pytest.mark.skipif(not kernels(), reason="this ComfyUI has no fused kernels")
@pytest.mark.parametrize("name", [name for name in kernels() if not any(part in name for part in FEW_BITS)])
def test_a_weight_that_the_host_overwrites_after_the_kernel_is_kept_for_the_backward(name):
    op = kernels()[name]
    values = inputs_of(name, op)
    tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
    leaves = {key: value.requires_grad_() for key, value in tensors.items() if value.ndim > 1}

    def gradients(overwrite: bool) -> list:
        out = weighed(op(**values))
        for key in tensors.keys() - leaves.keys() if overwrite else ():
            values[key].data.mul_(5)  # as the next layer's weight comes in: autograd does not see it
        found = torch.autograd.grad(out, list(leaves.values()), allow_unused=True)
        for key in tensors.keys() - leaves.keys() if overwrite else ():
            values[key].data.div_(5)
        return found

    backward(lambda: op(**values))
    for one, other in zip(gradients(False), gradients(True)):
        assert one is other is None or torch.allclose(one, other, rtol=1e-5)


def test_a_kernel_that_rounds_to_few_bits_is_refused_and_not_trained_on_zeros():
    op = kernels().get("quantize_int8_rowwise")
    if op is None:
        pytest.skip("this ComfyUI has no such kernel")
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    with pytest.raises(RuntimeError) as refusal:
        backward(lambda: op(x)[1])
    assert "kernel that has no gradient" in str(in_words_of_kernels(refusal.value)) and x.grad is None


def test_another_packages_kernel_is_left_alone():
    assert not give_gradient(RuntimeError("Trying to backward through another.rms_rope.default but no autograd formula"))
    assert not give_gradient(RuntimeError("Trying to backward through comfy_kitchen.unheard_of but no autograd formula"))


@pytest.mark.parametrize("before", [False, True])
def test_the_switch_is_on_inside_and_as_it_was_afterwards(monkeypatch, before):
    monkeypatch.setattr(management, "in_training", before, raising=False)
    with open_policy(trained_policy("sd3")):
        assert management.in_training is True
    assert management.in_training is before
    with pytest.raises(KeyError), open_policy(trained_policy("sd3")):
        raise KeyError
    assert management.in_training is before


def test_a_host_without_the_switch_gets_none(monkeypatch):
    monkeypatch.delattr(management, "in_training", raising=False)
    with open_policy(trained_policy("sd3")):
        assert not hasattr(management, "in_training")
    assert not hasattr(management, "in_training")


def test_a_kernel_without_a_gradient_is_named():
    """The words of torch itself, from an operator that nobody gave a gradient."""
    @torch.library.custom_op("comfy_kitchen::posttrain_probe", mutates_args=())
    def probe(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    with pytest.raises(RuntimeError) as torch_says:
        probe(torch.ones(2, requires_grad=True)).sum().backward()
    assert "kernel that has no gradient" in str(in_words_of_kernels(torch_says.value))
    assert in_words_of_kernels(RuntimeError("one of the variables needed for gradient computation")) is None
