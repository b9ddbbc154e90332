"""ControlNets on conditionings: the policy switched off is KSampler with the same ControlNet, and gradients pass through it."""

from __future__ import annotations

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management as management
import pytest
import torch
from fingerprint import fingerprint
from host_sampler import answers, difference, policy_of, sampled
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.rules.colour import ColourReward
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.policy import open_policy
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling.settings import Sampling
from small_models import CPU, SIZE, UNET, conditioning, small_model, small_vae, trained_policy

KIND = "sd15"


def control_net(dtype: torch.dtype = torch.float32, cast: torch.dtype | None = None, seed: int = 21):
    """The host's ControlNet for the small SD1.5, random weights, those at its ends too."""
    shape = {k: v for k, v in UNET.items() if k not in ("out_channels", "transformer_depth_output")}
    with torch.inference_mode():
        network = comfy.cldm.cldm.ControlNet(**shape, hint_channels=3, dtype=dtype, operations=comfy.ops.manual_cast)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in network.named_parameters():
            scale = 0.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            values = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(values + (1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0))
    return comfy.controlnet.ControlNet(network, load_device=CPU, manual_cast_dtype=cast)


def controlled(net, seed: int = 1, hint: int = 9, strength: float = 0.8, span=(0.0, 1.0), before=None, **values):
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(hint))
    control = net.copy().set_cond_hint(picture, strength, span)
    if before is not None:
        control.set_previous_controlnet(before)
    ((text, extra),) = conditioning(KIND, seed)
    return [[text, {**extra, "control": control, "control_apply_to_uncond": True, **values}]]


def shared(net):
    """As Apply ControlNet does: one ControlNet for the positive and the negative prompt."""
    ((text, extra),) = controlled(net, control_apply_to_uncond=False)
    ((other, more),) = conditioning(KIND, 3)
    return [[text, extra]], [[other, {**more, "control": extra["control"], "control_apply_to_uncond": False}]]


MADE = {
    "one": lambda: (controlled(control_net()), None),
    "shared with the negative": lambda: shared(control_net()),
    "timed": lambda: (controlled(control_net(), span=(0.0, 0.4)), None),
    "two": lambda: (controlled(control_net(), before=controlled(control_net(seed=22), hint=5)[0][1]["control"]), None),
    "with an area": lambda: (controlled(control_net(), area=(8, 4, 0, 0)) + conditioning(KIND, 2), None),
    "cast": lambda: (controlled(control_net(torch.bfloat16, torch.float32)), None),
}


def prompts_of(name: str) -> PromptSet:
    positive, negative = MADE[name]()
    return PromptSet((Prompt("one"), Prompt("two")), (positive, conditioning(KIND, 7)), negative or conditioning(KIND, 3))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", MADE)
def test_off_is_ksampler(name, guidance):
    prompts, model = prompts_of(name), small_model(KIND)
    host = sampled(model, KIND, guidance, steps=3, positive=prompts.positive[0], negative=prompts.negative)
    assert difference(answers(model, KIND, guidance, host, prompts), host) <= 1e-6
    plain = sampled(model, KIND, guidance, steps=3, positive=prompts.positive[1], negative=prompts.negative)
    assert float((plain.latents - host.latents).abs().max()) > 1e-3


def loss(net, bank, prompts, x, recompute=False):
    out = net.denoise(x, torch.tensor([3.0, 0.5]), prompts, [0, 1], 2.0, bank, recompute=recompute)
    return (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum()


@pytest.mark.parametrize("name, way", [*((name, "plain") for name in MADE), ("two", "recompute"), ("two", "blocks")])
def test_the_gradient_is_that_of_finite_differences(name, way):
    """Of the bank, and of the latents, which go through the ControlNet too."""
    prompts, policy = prompts_of(name), trained_policy(KIND, torch.float64)
    x = torch.randn(2, *SIZE[KIND], generator=torch.Generator().manual_seed(5))
    with open_policy(policy) as net:
        net.recomputing_blocks(way == "blocks")
        leaves = [*net.to_device(policy.bank, train=True).values(), x.clone().requires_grad_()]

        def at(values):
            return loss(net, dict(zip(policy.bank, values)), prompts, values[-1], way == "recompute")

        net.gradients(lambda: (at(leaves), {}), leaves)
        for chosen in (leaves[:-1], leaves[-1:]):
            norm = sum(float(leaf.grad.square().sum()) for leaf in chosen) ** 0.5
            moved = [{id(leaf): sign * 1e-2 * leaf.grad / norm for leaf in chosen} for sign in (1, -1)]
            with torch.no_grad():
                up, down = (float(at([leaf.detach() + move.get(id(leaf), 0) for leaf in leaves])) for move in moved)
            assert (up - down) / 2e-2 == pytest.approx(norm, rel=0.01)


@pytest.mark.parametrize("ends", ["well", "in a cancel"])
def test_the_users_controlnet_is_what_it_was(ends):
    net, sampling = (
        control_net(),
        Sampling(steps=3, width=64, height=64, prompts_per_iteration=1, images_per_prompt=2, batch_size=2),
    )
    positive = controlled(net)
    control = positive[0][1]["control"]
    management.load_models_gpu([net.control_model_wrapped])
    before, found = fingerprint(net.control_model), {k: id(v) for k, v in vars(control).items()}
    prompts = PromptSet((Prompt("one"),), (positive,), conditioning(KIND, 3))
    management.interrupt_current_processing(ends != "well")
    try:
        with torch.inference_mode():
            new, _ = backprop_step(
                policy_of(small_model(KIND)),
                prompts,
                small_vae(KIND),
                ColourReward("brightness"),
                sampling,
                Trainer(DRaFT(), Optimizer(learning_rate=1e-3)),
            )
        assert ends == "well" and new.metrics["updates"] == 1
    except management.InterruptProcessingException:
        assert ends != "well"
    finally:
        management.interrupt_current_processing(False)
    assert fingerprint(net.control_model) == before and {k: id(v) for k, v in vars(control).items()} == found


def test_a_controlnet_with_hooks_is_refused():
    positive = controlled(control_net())
    positive[0][1]["control"].extra_hooks = object()
    positive[0][1]["control"].get_extra_hooks = lambda: [object()]
    with open_policy(policy_of(small_model(KIND))) as net, pytest.raises(ValueError, match="carries a ControlNet with hooks"):
        net.denoise(torch.randn(1, *SIZE[KIND]), torch.ones(1), PromptSet((Prompt("one"),), (positive,), None), [0], 1.0, None)
