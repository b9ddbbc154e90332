"""The simulated card against what a real one does."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from simulated_card import device

CARD = "cuda"


def on(where, *tensors):
    return [t.detach().clone().to(where).requires_grad_(True) for t in tensors]


@pytest.mark.parametrize("mix", [
    lambda x, c: x + c, lambda x, c: x @ c, lambda x, c: F.linear(x, c), lambda x, c: torch.cat([x, c]), lambda x, c: x.lerp_(c, 0.5),
    lambda x, c: torch.where(x > 0, x, c), lambda x, c: x.gather(0, c.long()), lambda x, c: c[x.long().abs() % 4],
    lambda x, c: F.conv2d(x[None, None], c[None, None]), lambda x, c: F.embedding(c.long().abs() % 4, x),
    lambda x, c: torch.empty(0).set_(x.untyped_storage()), lambda x, c: x.numpy(),
    lambda x, c: torch.randn(3, device=CARD, generator=torch.Generator())])
def test_what_a_gpu_refuses_is_refused(mix):
    with pytest.raises((RuntimeError, TypeError)):
        mix(torch.randn(4, 4).to(CARD), torch.randn(4, 4))


def test_what_a_gpu_accepts_is_accepted():
    x, number = torch.randn(4, 4).to(CARD), torch.tensor(2.0)
    assert {(x * number).device.type, torch.where(x > 0, x, number).device.type, x[torch.tensor([0, 1])].device.type} == {CARD}
    assert torch.nn.Linear(2, 2).to(CARD).weight.is_cuda
    x[0].zero_()
    assert float(x[0].abs().sum()) == 0, "a view writes through"


@pytest.mark.parametrize("network", [
    lambda x, w: F.scaled_dot_product_attention(x, w, x), lambda x, w: F.rms_norm(x, (8,), w[0, 0, 0]), lambda x, w: (x * w).softmax(-1),
    lambda x, w: F.group_norm(x, 2) * w, lambda x, w: F.conv2d(x, w[:, :, :3, :3].repeat(2, 1, 1, 1)), lambda x, w: F.layer_norm(x, (8,)) @ w.mT])
def test_gradients_are_those_of_the_cpu(network):
    x, w = torch.randn(2, 2, 8, 8), torch.randn(2, 2, 8, 8)
    found = []
    for where in ("cpu", CARD):
        leaves = on(where, x, w)
        network(*leaves).square().sum().backward()
        found.append([None if leaf.grad is None else leaf.grad.cpu() for leaf in leaves])
    for cpu, card in zip(*found):
        assert (cpu is None) == (card is None)
        if cpu is not None:
            torch.testing.assert_close(cpu, card, rtol=1e-4, atol=1e-4)


def test_the_same_seed_draws_other_numbers_than_the_cpu():
    card, cpu = (torch.randn(4, device=d, generator=torch.Generator(d).manual_seed(1)).cpu() for d in (CARD, "cpu"))
    assert not torch.equal(card, cpu)


def test_inference_tensors_can_be_aliased():
    with torch.inference_mode():
        weight = torch.randn(4, 4).to(CARD)
        assert not torch.zeros(3)[0].is_inference() or weight[0].is_inference()
    alias = torch.empty(0, device=CARD).set_(weight.untyped_storage(), 0, weight.size(), weight.stride())
    x = torch.randn(2, 4, device=CARD, requires_grad=True)
    (x @ alias).sum().backward()
    assert alias.data_ptr() == weight.data_ptr() and x.grad is not None


def test_bytes_are_counted_limited_and_given_back():
    before = device.counts()["now"]
    x = torch.zeros(1000, device=CARD)
    assert device.counts()["now"] - before == 4096  # in pieces of 512, as CUDA's allocator
    with device.limit(before + 8192):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.zeros(10_000, device=CARD)
    with device.failing(2), pytest.raises(torch.cuda.OutOfMemoryError):
        torch.zeros(1, device=CARD), torch.zeros(1, device=CARD)
    assert torch.cuda.mem_get_info()[0] < torch.cuda.mem_get_info()[1] and len(device.pieces()) >= 1
    del x
    assert device.counts()["now"] == before


def test_memory_given_out_while_another_stream_reads_it_is_seen():
    side, x = torch.cuda.Stream(), torch.ones(256, device=CARD)

    def used(waits: bool):
        with torch.cuda.stream(side):
            weight = torch.empty(256, device=CARD)
        _ = x * weight
        if waits:
            side.wait_stream(torch.cuda.current_stream())

    for waits, races in ((True, 0), (False, 2)):
        torch.cuda.synchronize()
        device.reset()
        for _ in range(3):
            used(waits)
        assert device.races()[0] == races


@pytest.mark.card("mac")
def test_a_mac_refuses_float64_and_does_the_rest():
    import comfy.model_management as management
    assert management.get_torch_device().type == "mps" and management.mps_mode()
    x = torch.randn(1, 2, 8, 8, device="mps", requires_grad=True)
    for ask in (lambda: x.double(), lambda: x.to(torch.float64), lambda: torch.zeros(1, dtype=torch.float64, device="mps"),
                lambda: x.sum(dtype=torch.float64), lambda: torch.zeros(1, dtype=torch.float64).to("mps")):
        with pytest.raises(TypeError, match="float64"):
            ask()
    F.scaled_dot_product_attention(x, x, x).sum().backward()
    assert x.grad.device.type == "mps" and bool(x.grad.isfinite().all())


@pytest.mark.card("--novram")
def test_the_host_reads_the_flags_of_a_test():
    import comfy.model_management as management
    assert management.vram_state == management.VRAMState.NO_VRAM and management.get_torch_device().type == "cuda"
