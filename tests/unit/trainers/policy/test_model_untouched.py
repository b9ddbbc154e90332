"""After success, refusal, error or cancel the user's MODEL is bit for bit what it was, and KSampler on it draws the same."""
from __future__ import annotations

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP
from host_sampler import policy_of, sampled
from posttrain.rewards.base.reward import Prompt
from posttrain.trainers.policy import open_policy, policy_as_model
from posttrain.trainers.prompts import PromptSet
from small_models import SIZE, conditioning, prompts_for, small_model, trained_policy

KIND = "sd15"
Interrupted = comfy.model_management.InterruptProcessingException


def doubled_middle():
    """An injection, as packs make them: it replaces a module's forward while the model is loaded."""
    def inject(patcher):
        block = patcher.model.diffusion_model.middle_block[0]
        block.forward, block.before_mine = (lambda x, emb, old=block.forward: old(x, emb) * 1.5), block.forward

    def eject(patcher):
        block = patcher.model.diffusion_model.middle_block[0]
        del block.forward, block.before_mine
    return [PatcherInjection(inject, eject)]


def loaded_with_everything():
    """The user's own LoRA, an object patch, an injection, wrappers, cfg functions, a further model, callbacks."""
    with torch.inference_mode():
        model = policy_as_model(trained_policy(KIND))
        model.add_object_patch("manual_cast_dtype", torch.float32)
        model.set_injections("mine", doubled_middle())
        model.set_additional_models("mine", [small_model(KIND, seed=8)])
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "mine", lambda executor, *a, **k: executor(*a, **k) * 0.9)
        model.add_callback(CallbacksMP.ON_PRE_RUN, lambda patcher: None)
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9)
        model.set_model_attn1_patch(lambda q, k, v, extra: (q * 1.1, k, v))
    return model


def ask(net, guidance: float = 3.0, prompts=None):
    return net.denoise(torch.randn(1, *SIZE[KIND]), torch.ones(1), prompts or prompts_for(KIND), [0], guidance, None)


def succeed(model):
    policy = policy_of(model)
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        net.gradients(lambda: (net.denoise(torch.randn(1, *SIZE[KIND]), torch.ones(1), prompts_for(KIND), [0], 3.0, bank)
                               .sum(), {}), list(bank.values()))


def refused_wrapper(model):
    carrier = model.clone()
    carrier.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "mine", lambda executor, *a, **k: executor(*a, **k))
    policy_of(carrier)


def refused_sampling(model):
    carrier = model.clone()
    carrier.add_object_patch("model_sampling", object())
    policy_of(carrier)


def refused_prompt(model):
    (text, extra), = conditioning(KIND, 1)
    with open_policy(policy_of(model)) as net:
        ask(net, prompts=PromptSet((Prompt("one"),), ([[text, {**extra, "gligen": object()}]],), None))


def refused_chance(model):
    carrier = model.clone()
    carrier.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + torch.randn_like(args["denoised"]))
    with open_policy(policy_of(carrier)) as net:
        ask(net)


def failing_callback(model):
    def fail(patcher):
        raise RuntimeError("a pack's own error")
    carrier = model.clone()
    carrier.add_callback(CallbacksMP.ON_PRE_RUN, fail)
    with open_policy(policy_of(carrier)):
        pass


def failing_node(model):
    def fail(args):
        raise RuntimeError("a pack's own error")
    carrier = model.clone()
    carrier.set_model_sampler_post_cfg_function(fail)
    with open_policy(policy_of(carrier)) as net:
        ask(net)


def cancelled(model):
    with open_policy(policy_of(model)) as net:
        ask(net)
        comfy.model_management.interrupt_current_processing(True)
        ask(net)


def error_beside(model):
    with open_policy(policy_of(model)) as net:
        ask(net)
        raise KeyError("a reward's own error")


ENDS = {succeed: None, refused_wrapper: ValueError, refused_sampling: ValueError, refused_prompt: ValueError,
        refused_chance: ValueError, failing_callback: RuntimeError, failing_node: RuntimeError, cancelled: Interrupted,
        error_beside: KeyError}


def bytes_of(model) -> dict[str, torch.Tensor]:
    comfy.model_management.unload_all_models()
    return {k: v.detach().contiguous().view(torch.uint8).clone() for k, v in model.model.state_dict().items() if v.ndim}


def shape_of(value):
    """Everything that is on the MODEL, as far as it can be compared."""
    if isinstance(value, dict):
        return {k: shape_of(v) for k, v in value.items()}
    return [shape_of(v) for v in value] if isinstance(value, (list, tuple)) else id(value)


def put_on(model) -> dict:
    found = {name: shape_of(getattr(model, name)) for name in ("model_options", "patches", "object_patches", "wrappers",
                                                               "callbacks", "injections", "additional_models", "hook_patches")}
    inside = {name: sorted(vars(module)) for name, module in model.model.named_modules()}
    return {**found, "inside": inside, "patcher": model.model.current_patcher}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_the_model_is_what_it_was(end):
    model = loaded_with_everything()
    picture = sampled(model, KIND, 3.0).latents
    weights, found = bytes_of(model), put_on(model)
    try:
        if ENDS[end] is None:
            end(model)
        else:
            with pytest.raises(ENDS[end]):
                end(model)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert torch.equal(sampled(model, KIND, 3.0).latents, picture)
    again = bytes_of(model)
    assert weights.keys() == again.keys() and all(torch.equal(weights[k], again[k]) for k in weights)
    assert put_on(model) == found
