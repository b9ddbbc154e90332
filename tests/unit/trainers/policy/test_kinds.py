"""Every kind keeps what the bank promises: off it is the model, it starts as the model, its gradient is right, its export is
what it was, and nothing as large as the weights is kept."""

from __future__ import annotations

import math
from collections import Counter

import comfy.sd
import pytest
import torch
from one_answer import host_answer, inputs, train_a_little
from posttrain.trainers.policy import Recipe, create_policy, lora_state_dict, open_policy
from posttrain.trainers.policy.bank import new_bank
from posttrain.trainers.policy.kinds import HOSTS, KINDS, LORA, RS_LORA, laid_over, member_of
from small_models import prompts_for, small_model
from torch.utils._python_dispatch import TorchDispatchMode

EVERYWHERE = "all linear layers and convolutions"


def policy_of(which: str, kind: str, moved: float = 0.05, dtype=torch.float32, compute=None):
    """A policy of this kind; moved: how far its weights are from their start."""
    policy = create_policy(small_model(which, dtype, compute), Recipe(rank=4, alpha=6.0, targets=EVERYWHERE, kind=kind))
    random = torch.Generator().manual_seed(7)
    for value in policy.bank.values():
        value.add_(torch.randn(value.shape, generator=random) * moved)
    return policy


def answer(net, which: str, bank):
    return net.denoise(*inputs(which), prompts_for(which), [0, 0], 1.0, bank)


@pytest.mark.parametrize("which", ["sd15", "sd3", "flux"])
@pytest.mark.parametrize("kind", KINDS)
def test_off_is_the_model_and_the_start_changes_nothing(kind, which):
    policy = policy_of(which, kind, moved=0.0)
    host = host_answer(policy.model, which, *inputs(which), 1.0)
    with open_policy(policy) as net:
        assert torch.equal(answer(net, which, None), host)
        torch.testing.assert_close(answer(net, which, net.to_device(policy.bank)), host, rtol=1e-5, atol=1e-5)
        assert torch.equal(answer(net, which, None), host)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ratio_is_one(kind, compute):
    """Sampled without a gradient, computed again with one: the same bits."""
    policy = policy_of("sd3", kind, compute=compute)
    with open_policy(policy) as net:
        with torch.no_grad():
            sampled = answer(net, "sd3", net.to_device(policy.bank))
        with torch.enable_grad():
            again = answer(net, "sd3", net.to_device(policy.bank, train=True))
        assert again.requires_grad and torch.equal(sampled, again.detach())
        assert (sampled - answer(net, "sd3", None)).abs().max() > 1e-3


@pytest.mark.parametrize("which", ["sd15", "sd3"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_export_in_the_stock_loader_is_the_policy(kind, which):
    policy = policy_of(which, kind)
    with open_policy(policy) as net:
        ours = answer(net, which, net.to_device(policy.bank))
    loaded, _ = comfy.sd.load_lora_for_models(policy.model, None, lora_state_dict(policy), 1.0, 0)
    assert len(loaded.patches) == len(policy.members())
    torch.testing.assert_close(host_answer(loaded, which, *inputs(which), 1.0), ours, rtol=1e-4, atol=5e-4)  # by processor


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind, convolution):
    """Of a layer with a bias, in float64 where the host's adapter computes so, over every part and the input."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 12, 3, stride=2, padding=1) if convolution else torch.nn.Linear(8, 12)
    layer = layer.double().requires_grad_(False)
    member = member_of(layer, kind, 4, 6.0)
    bank = new_bank({"layer": layer}, Recipe(rank=4, alpha=6.0, kind=kind))
    weights = [
        (bank[f"layer.{part}"].double() + 0.1 * torch.randn(bank[f"layer.{part}"].shape).double()).requires_grad_()
        for part in member.parts
    ]
    x = torch.randn(2, 8, 5, 5).double() if convolution else torch.randn(2, 3, 8).double()
    over = laid_over(layer, member, layer.forward)
    toward = torch.randn(over(x, layer(x), *weights).shape).double()

    def loss(x, *weights):
        return (over(x, layer(x), *weights) * toward).sum()

    x.requires_grad_()
    found = torch.autograd.grad(loss(x, *weights), [x, *weights])
    # the host turns its blocks, and adds to a weight, in float32
    step, tolerance = (1e-3, 2e-3) if kind in HOSTS else (1e-6, 1e-6)
    for place, gradient in enumerate(found):
        direction = torch.randn(gradient.shape).double()
        direction /= direction.norm()
        moved = [
            [each + sign * step * direction if place == at else each for at, each in enumerate([x, *weights])]
            for sign in (1, -1)
        ]
        with torch.no_grad():
            measured = float(loss(*moved[0]) - loss(*moved[1])) / (2 * step)
        assert measured == pytest.approx(float((gradient * direction).sum()), rel=tolerance, abs=tolerance), (kind, place)


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_every_part(kind):
    policy = policy_of("sd3", kind)
    before = {key: value.clone() for key, value in policy.model.model.state_dict().items()}
    trained = train_a_little(policy, "sd3")
    parts = {part for member in policy.members().values() for part in member.parts}
    for part in parts:
        assert any(not torch.equal(trained.bank[key], policy.bank[key]) for key in policy.bank if key.endswith(part)), part
    again = create_policy(policy.model, policy.recipe).with_state(*trained.state())
    ours, theirs = train_a_little(trained, "sd3").bank, train_a_little(again, "sd3").bank
    assert all(torch.equal(ours[key], theirs[key]) for key in ours), "a resume is bit-equal"
    assert all(torch.equal(before[key], value) for key, value in policy.model.model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_as_large_as_the_weights_is_kept_for_the_backward(kind):
    """Of one layer 256 wide with a batch of 2 tokens: all that autograd holds is smaller than its weight."""
    layer = torch.nn.Linear(256, 256).requires_grad_(False)
    member = member_of(layer, kind, 4, 4.0)
    weights = [value.requires_grad_() for value in new_bank({"l": layer}, Recipe(rank=4, alpha=4.0, kind=kind)).values()]
    x, kept = torch.randn(2, 256, requires_grad=True), {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    over, y = laid_over(layer, member, layer.forward), layer(x)
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, layer.weight, *weights)}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = over(x, y, *weights)
    assert kept and sum(size for place, size in kept.items() if place not in own) < layer.weight.nbytes / 4


def test_rs_lora_is_another_strength():
    layer = torch.nn.Linear(64, 64)
    assert member_of(layer, "rsLoRA", 16, 8.0).scale == 8.0 / math.sqrt(16) == Recipe(rank=16, alpha=8.0, kind="rsLoRA").scale
    assert member_of(layer, "LoRA", 16, 8.0).scale == 0.5 == Recipe(rank=16, alpha=8.0).scale


def test_the_start_depends_on_the_seed_alone():
    banks = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        banks.append(create_policy(small_model("sd3"), Recipe(rank=4, seed=seed, kind="LoHa")).bank)
        assert torch.equal(before, torch.get_rng_state()), "PyTorch's own generator stays where it was"
    assert all(torch.equal(banks[0][key], banks[1][key]) for key in banks[0])
    assert any(not torch.equal(banks[0][key], banks[2][key]) for key in banks[0])


def test_what_a_rank_leaves_nothing_to_do_is_refused():
    with pytest.raises(ValueError, match="rank: 1 leaves OFT nothing to turn"):
        create_policy(small_model("sd3"), Recipe(rank=1, kind="OFT"))
    with pytest.raises(ValueError, match="kind: unknown 'DoRA'; use one of LoRA, rsLoRA"):
        create_policy(small_model("sd3"), Recipe(kind="DoRA"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [LORA, RS_LORA])
def test_a_lora_is_one_expression_in_two_multiplications(kind, dtype):
    """Whatever the order of its input's numbers, and what it keeps for its backward is as wide as its rank."""
    layer = torch.nn.Linear(12, 20).requires_grad_(False).to(dtype)
    over = laid_over(layer, member_of(layer, kind, 4, 6.0), layer.forward)
    a, b = torch.randn(4, 12), torch.randn(20, 4)
    scale = 6.0 / (2 if kind == RS_LORA else 4)
    for x in (torch.randn(2, 5, 12), torch.randn(5, 2, 12).transpose(0, 1), torch.randn(2, 12, 5).mT, torch.randn(12)):
        x = x.to(dtype)
        y = layer(x)
        expected = y.double() + scale * x.double() @ a.to(dtype).double().T @ b.to(dtype).double().T
        with Calls() as calls:
            found = over(x, y, a, b)
        near = {torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
        torch.testing.assert_close(found.double(), expected, rtol=near, atol=near * 10)
        assert found.shape == y.shape and calls.made["aten.addmm.default"] == 1 and calls.made["aten.mm.default"] == 1
        assert not any(calls.made[name] for name in ("aten.add.Tensor", "aten.mul.Tensor"))


class Calls(TorchDispatchMode):
    """Counts operators."""

    def __init__(self):
        super().__init__()
        self.made: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_weights_are_cast_once_for_as_long_as_they_stay_the_same():
    layer = torch.nn.Linear(12, 20).bfloat16().requires_grad_(False)
    over = laid_over(layer, member_of(layer, LORA, 4, 4.0), layer.forward)
    a, b = torch.randn(4, 12).requires_grad_(), torch.randn(20, 4).requires_grad_()
    x = torch.randn(3, 12, dtype=torch.bfloat16)

    def answer(calls):
        with calls:
            return over(x, layer(x), a, b)

    def casts():
        with torch.no_grad():
            answer(calls := Calls())
        return calls.made["aten._to_copy.default"]

    assert (casts(), casts()) == (2, 2), "of weights that train none is held while a recomputing pass goes backward"
    trained, (a, b) = (a, b), (a.detach().clone(), b.detach().clone())
    assert (casts(), casts()) == (2, 0)
    a.mul_(2)
    assert (casts(), casts()) == (1, 0)
    a, b = trained
    with_gradient = answer(Calls())
    with torch.no_grad():
        assert torch.equal(answer(Calls()), with_gradient.detach())
    assert all(bool(gradient.any()) for gradient in torch.autograd.grad(with_gradient.sum(), [a, b]))
    for _ in range(20):  # banks come and go
        a = torch.randn(4, 12)
        with torch.no_grad():
            expected = layer(x) + x @ a.bfloat16().T @ b.bfloat16().T
            torch.testing.assert_close(answer(Calls()), expected, rtol=0.05, atol=0.1)
