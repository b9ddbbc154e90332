"""Attention without a backward, or with one that keeps too much: trained through, with the numbers that KSampler sees."""

from __future__ import annotations

import sys
from collections import Counter

import comfy.ldm.modules.attention as host
import pytest
import torch
import torch.nn.functional as F
from host_sampler import answers, difference, policy_of, sampled
from posttrain.rewards.base.reward import score_rollout
from posttrain.rewards.rules.colour import ColourReward
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import attention, open_policy
from posttrain.trainers.policy.latents import to_images_with_gradient
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import ARCHITECTURES, SIZE, PlainVAE, prompts_for, small_model, small_vae, trained_policy

CALLS: Counter = Counter()
SAMPLING = Sampling(steps=3, width=32, height=32, prompts_per_iteration=1, images_per_prompt=4, batch_size=4)

needs_override = pytest.mark.skipif(
    not hasattr(host, "wrap_attn"),
    reason="this ComfyUI lets nobody override its attention; layers that it cuts off are named instead",
)


def rounded(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127
    return (x / scale).round() * scale


def sageattn(q, k, v, attn_mask=None, is_causal=False, tensor_layout="HND", sm_scale=None, smooth_k=True):
    """As the package's kernel: queries and keys in 8 bits, into an empty tensor that knows of no gradient."""
    CALLS["sage"] += 1
    with torch.no_grad():
        q, k, v = (t if tensor_layout == "HND" else t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(rounded(q), rounded(k), v, attn_mask=attn_mask, scale=sm_scale)
        out = out if tensor_layout == "HND" else out.transpose(1, 2)
        return torch.empty_like(out).copy_(out)


def everywhere(monkeypatch, attention) -> None:
    """The host's choice of attention, as a flag makes it before its networks import it."""
    chosen = (host.optimized_attention, host.optimized_attention_masked)
    for name, module in list(sys.modules.items()):
        if name.startswith("comfy."):
            for attribute, value in list(vars(module).items()):
                if any(value is one for one in chosen):
                    monkeypatch.setattr(module, attribute, attention)


def by_flag(monkeypatch, model):
    everywhere(monkeypatch, host.attention_sage)
    return model


def by_node(monkeypatch, model):
    """As Patch Sage Attention does."""
    model = model.clone()
    override = {"optimized_attention_override": lambda _, *args, **kwargs: host.attention_sage.__wrapped__(*args, **kwargs)}
    model.model_options["transformer_options"] = {**model.model_options.get("transformer_options", {}), **override}
    return model


@pytest.fixture(autouse=True)
def the_package(monkeypatch):
    monkeypatch.setattr(host, "sageattn", sageattn, raising=False)
    monkeypatch.setattr(host, "SAGE_ATTENTION_SUPPORTS_MASK", True, raising=False)
    CALLS.clear()


def under_grad(policy, kind: str, recompute: bool = False, blocks: bool = False):
    """The bank's gradients, and the answer that they were taken of."""
    generator, answer = torch.Generator().manual_seed(3), []
    x, weight = torch.randn(2, *SIZE[kind], generator=generator), torch.randn(2, *SIZE[kind], generator=generator)
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        net.recomputing_blocks(blocks)

        def loss_of():
            answer[:] = [net.denoise(x, torch.tensor([0.8, 0.4]), prompts_for(kind), [0, 1], 2.0, bank, recompute=recompute)]
            return (answer[0] * weight).sum(), {}

        net.gradients(loss_of, list(bank.values()))
        with torch.no_grad():
            still = net.denoise(x, torch.tensor([0.8, 0.4]), prompts_for(kind), [0, 1], 2.0, bank)
        assert torch.equal(answer[0].detach(), still), "with and without a gradient the policy must answer the same"
        return {key: leaf.grad for key, leaf in bank.items()}, still


def distance(found: dict, expected: dict) -> float:
    a, b = (torch.cat([g.flatten() for g in each.values()]) for each in (found, expected))
    return float((a - b).norm() / b.norm())


@needs_override
@pytest.mark.sweep
@pytest.mark.parametrize("way", ["plain", "recompute", "blocks"])
@pytest.mark.parametrize("install", [by_flag, by_node])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_gradient_is_that_of_pytorchs_attention(monkeypatch, kind, install, way):
    policy = trained_policy(kind)
    with monkeypatch.context() as patch:
        everywhere(patch, host.attention_pytorch)
        expected, exact = under_grad(policy, kind)
    model = install(monkeypatch, policy.model)
    found, answer = under_grad(type(policy)(model, policy.recipe, policy.bank), kind, way == "recompute", way == "blocks")
    assert CALLS["sage"] and all(bool(g.any()) for key, g in found.items() if bool(expected[key].any()))
    error = float((answer - exact).norm() / exact.norm())
    assert 0 < error < 0.02, "it is another attention"
    assert distance(found, expected) < 0.02


@needs_override
@pytest.mark.parametrize("install", [by_flag, by_node])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_off_is_ksampler_and_the_first_ratio_is_1(monkeypatch, kind, install):
    model = install(monkeypatch, small_model(kind))
    host_says = sampled(model, kind, 3.0)
    assert CALLS["sage"] and difference(answers(model, kind, 3.0, host_says), host_says) == 0
    made = rollout(policy_of(model), prompts_for(kind), PlainVAE(), SAMPLING)
    trainer = Trainer(FlowGRPO(), Optimizer(learning_rate=1e-3))
    new = train_step(policy_of(model), made, advantages(score_rollout(ColourReward("brightness"), made)), trainer)
    assert new.metrics["ratio_largest_change"] == 0 and new.metrics["updates"] == 1
    learnt = [key for key, value in new.bank.items() if key.endswith("lora_B") and value.any()]
    assert any("attn" in key or "attention" in key or "qkv" in key for key in learnt)


def kept(run) -> int:
    """Bytes that autograd keeps for the backward pass of run()."""
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    assert alive.requires_grad
    return sum(seen.values())


@needs_override
@pytest.mark.parametrize("name", ["attention_sub_quad", "attention_split", "attention_basic"])
def test_the_hosts_other_attentions_keep_no_more_than_pytorchs(monkeypatch, name):
    policy, size, found = trained_policy("sd15"), {}, {}
    x = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    for each in ("attention_pytorch", name):
        with monkeypatch.context() as patch, open_policy(policy) as net:
            everywhere(patch, getattr(host, each))
            bank = net.to_device(policy.bank, train=True)
            size[each] = kept(lambda: net.denoise(x, torch.ones(1), prompts_for("sd15"), [0], 1.0, bank))
            net.gradients(
                lambda: (net.denoise(x, torch.ones(1), prompts_for("sd15"), [0], 1.0, bank).square().sum(), {}),
                list(bank.values()),
            )
            found[each] = {key: leaf.grad for key, leaf in bank.items()}
    assert size[name] <= 1.05 * size["attention_pytorch"]
    assert distance(found[name], found["attention_pytorch"]) < 1e-4


@needs_override
def test_an_override_with_a_gradient_of_its_own_keeps_it():
    """Half the attention: PyTorch's would have twice the gradient."""
    policy = trained_policy("sd3")
    plain, _ = under_grad(policy, "sd3")
    model = policy.model.clone()
    model.model_options["transformer_options"] = {"optimized_attention_override": lambda f, *args, **kw: f(*args, **kw) * 0.5}
    halved, answer = under_grad(type(policy)(model, policy.recipe, policy.bank), "sd3")
    values = []
    with open_policy(type(policy)(model, policy.recipe, policy.bank)) as net:
        generator = torch.Generator().manual_seed(3)
        x, weight = (torch.randn(2, *SIZE["sd3"], generator=generator) for _ in range(2))
        norm = sum(float(g.square().sum()) for g in halved.values()) ** 0.5
        for sign in (1, -1):
            bank = net.to_device({k: v + sign * 1e-2 * halved[k] / norm for k, v in policy.bank.items()})
            out = net.denoise(x, torch.tensor([0.8, 0.4]), prompts_for("sd3"), [0, 1], 2.0, bank)
            values.append(float((out.double() * weight).sum()))
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(norm, rel=0.01)
    assert distance(halved, plain) > 0.1


@needs_override
def test_what_is_no_attention_and_has_no_gradient_is_refused():
    policy = trained_policy("sd3")
    model = policy.model.clone()
    model.model_options["transformer_options"] = {
        "optimized_attention_override": lambda attention, *args, **kwargs: attention(*args, **kwargs).detach().roll(1, 1)
    }
    with pytest.raises(RuntimeError, match=r"^model: a node has put something .*% off PyTorch's.*before that node"):
        under_grad(type(policy)(model, policy.recipe, policy.bank), "sd3")


@needs_override
@pytest.mark.parametrize("name", ["attention_pytorch", "attention_sub_quad", "attention_sage"])
def test_a_node_that_writes_into_a_part_of_the_answer(monkeypatch, name):
    """As normalized attention guidance does: the same gradient as of a node that answers with a new tensor."""
    found = {}
    for way in ("in place", "anew"):

        def halved(attention, *args, way=way, **kwargs):
            out = attention(*args, **kwargs)
            if way == "anew":
                return torch.cat([out[:1], out[1:] * 0.5])
            out[1:] = out[1:] * 0.5
            return out

        policy = trained_policy("sd3")
        policy.model.model_options["transformer_options"] = {"optimized_attention_override": halved}
        with monkeypatch.context() as patch:
            everywhere(patch, getattr(host, name))
            found[way], _ = under_grad(policy, "sd3")
    assert distance(found["in place"], found["anew"]) < 1e-6


def test_a_vaes_attention_keeps_no_square_of_the_picture():
    """And passes on the same gradient."""
    from comfy.ldm.modules.diffusionmodules import model as parts

    found, size = {}, {}
    for name in ("pytorch_attention", "normal_attention"):
        model, vae = small_model("sd15"), small_vae("sd15")
        blocks = [m for m in vae.first_stage_model.modules() if "optimized_attention" in vars(m)]
        for block in blocks:
            block.optimized_attention = getattr(parts, name)
        with torch.inference_mode(False):
            latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(5)).requires_grad_()
            size[name] = kept(lambda: to_images_with_gradient(model, vae, latents))
            with torch.enable_grad():
                to_images_with_gradient(model, vae, latents).square().sum().backward()
        found[name] = {"latents": latents.grad}
        assert blocks and all(block.optimized_attention is getattr(parts, name) for block in blocks)
    assert size["normal_attention"] <= 1.05 * size["pytorch_attention"]
    assert distance(found["normal_attention"], found["pytorch_attention"]) < 1e-5


@needs_override
@pytest.mark.parametrize("name", ["attention_sub_quad", "attention_split", "attention_basic"])
def test_on_a_cpu_pytorchs_attention_stands_for_the_hosts(monkeypatch, caplog, name):
    """In rollout and train step, so the first ratio is 1; said once; with few positions it stays the host's."""
    everywhere(monkeypatch, getattr(host, name))
    monkeypatch.setattr(attention, "_said", set())
    seen = Counter()
    own = host.attention_pytorch

    def counted(q, *args, **kwargs):
        seen[q.shape[-2]] += 1
        return own(q, *args, **kwargs)

    monkeypatch.setattr(host, "attention_pytorch", counted)
    caplog.set_level("INFO")
    small_ones = attention.LEAST - 1
    for batch in (1, 2):  # again, for what is said once
        x = torch.randn(batch, 4, 32, 32, generator=torch.Generator().manual_seed(3))
        sigma, where = torch.ones(batch), [0] * batch
        policy = trained_policy("sd15")
        with open_policy(policy) as net, torch.no_grad():
            still = net.denoise(x, sigma, prompts_for("sd15"), where, 1.0, net.to_device(policy.bank))
        assert seen and min(seen) > small_ones
        calls = sum(seen.values())
        with open_policy(policy) as net, torch.enable_grad():
            moving = net.denoise(x, sigma, prompts_for("sd15"), where, 1.0, net.to_device(policy.bank, train=True))
        assert torch.equal(moving.detach(), still) and sum(seen.values()) == 2 * calls
        seen.clear()
    monkeypatch.setattr(attention, "LEAST", 10**9)
    with open_policy(policy) as net, torch.no_grad():
        hosts = net.denoise(x, sigma, prompts_for("sd15"), where, 1.0, net.to_device(policy.bank))
    assert not seen and 0 < float((hosts - still).norm() / hosts.norm()) < 1e-5
    assert [record.message.count(name) for record in caplog.records if "stands for the host's" in record.message] == [1]


@needs_override
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_on_a_cpu_no_network_keeps_the_hosts(monkeypatch, kind):
    """However a network hands over its queries, keys and values: SD3 keeps the heads of v apart, and those of q and k not."""
    seen, slow, quick = Counter(), host.attention_sub_quad.__wrapped__, host.attention_pytorch

    @host.wrap_attn
    def attention_sub_quad(*args, **kwargs):
        seen["host's"] += 1
        return slow(*args, **kwargs)

    def counted(*args, **kwargs):
        seen["PyTorch's"] += 1
        return quick(*args, **kwargs)

    monkeypatch.setattr(attention, "LEAST", 1)
    monkeypatch.setattr(host, "attention_sub_quad", attention_sub_quad)
    everywhere(monkeypatch, attention_sub_quad)
    monkeypatch.setattr(host, "attention_pytorch", counted)
    x, policy = torch.randn(1, *SIZE[kind], generator=torch.Generator().manual_seed(3)), trained_policy(kind)
    with open_policy(policy) as net, torch.no_grad():
        net.denoise(x, torch.full((1,), 0.5), prompts_for(kind), [0], 1.0, net.to_device(policy.bank))
    assert seen["PyTorch's"] and not seen["host's"]


def test_a_mask_that_learns_or_keys_of_another_size_are_left_to_the_host():
    """PyTorch has no kernel for these that keeps no square."""
    q, k, mask = torch.randn(1, 200, 16), torch.randn(1, 200, 16), torch.zeros(1, 200, 200)
    assert attention._fused((q, k, k, 2), {"mask": mask}) and attention._fused((q, k[:, :7], k[:, :7], 2), {})
    assert not attention._fused((q, k, k, 2), {"mask": mask.requires_grad_()})
    assert not attention._fused((q.bfloat16(), k.bfloat16(), k.bfloat16(), 2), {})
    assert not attention._fused((q, k, k[..., :8], 2), {}) and not attention._fused((q[:, :100], k, k, 2), {})
