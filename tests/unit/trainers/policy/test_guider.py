"""What packs put on a MODEL by the host's own means, and conditionings of every kind: as in KSampler, or refused by name."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP
from host_sampler import answers, difference, policy_of, sampled
from posttrain.rewards.base.reward import Prompt
from posttrain.trainers.policy import open_policy
from posttrain.trainers.prompts import PromptSet
from small_models import SIZE, conditioning, prompts_for, small_model

KIND = "sd15"
WRAPPERS = {name: kind for name, kind in vars(WrappersMP).items() if name.isupper()}
CALLBACKS = {name: kind for name, kind in vars(CallbacksMP).items() if name.isupper()}
OF_A_CALL = {"PREDICT_NOISE", "CALC_COND_BATCH", "APPLY_MODEL", "DIFFUSION_MODEL"}


def equals_the_host(model, guidance: float = 3.0, kind: str = KIND) -> float:
    """Fails where the policy's answers are not the host's; how far the host's are from those without what is on it."""
    host = sampled(model, kind, guidance)
    assert difference(answers(model, kind, guidance, host), host) <= 1e-5
    plain = sampled(small_model(kind), kind, guidance)
    return float((plain.latents - host.latents).abs().max())


def scaled_answer(executor, *args, **kwargs):
    answer = executor(*args, **kwargs)
    return [part * 0.9 for part in answer] if isinstance(answer, list) else answer * 0.9


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("where", ["model", "options"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers(name, where, guidance):
    model = small_model(KIND)
    if where == "model":
        model.add_wrapper_with_key(WRAPPERS[name], "mine", scaled_answer)
    else:
        model.model_options["transformer_options"]["wrappers"] = {WRAPPERS[name]: {"mine": [scaled_answer]}}
    if name in OF_A_CALL:
        assert equals_the_host(model, guidance) > 1e-3
    else:
        with pytest.raises(ValueError, match=rf"^model: a node \('mine'\) .*{WRAPPERS[name]}.*before that node"):
            policy_of(model)
        with pytest.raises(ValueError, match="mine"), open_policy(replace(policy_of(small_model(KIND)), model=model)):
            pass


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_run_as_in_one_sampling(name):
    def count(run) -> tuple[int, object]:
        comfy.model_management.unload_all_models()
        calls, model = [], small_model(KIND)
        model.set_injections("mine", [PatcherInjection(lambda patcher: None, lambda patcher: None)])
        model.add_callback_with_key(CALLBACKS[name], "mine", lambda *_: calls.append(name))
        found = run(model)
        return len(calls), found

    host, steps = count(lambda model: sampled(model, KIND, 3.0, steps=2))
    policy = policy_of(small_model(KIND))

    def ask(model):
        with open_policy(replace(policy, model=model)) as net:
            for step in steps.steps:
                net.denoise(step.x, step.sigma, prompts_for(KIND), [0, 0], 3.0, None)

    ours, _ = count(ask)
    if name == "ON_PREPARE_STATE":  # four questions more find out whether the model is steady
        assert (host, ours) == (2, 6)
    elif name == "ON_CLONE":  # a clone is what is opened
        assert (host, ours) == (0, 1)
    else:
        assert host == ours, "as often as in the host"
        assert ours or name in SELDOM


# these need several GPUs, a model that is thrown out, or hooks on the conditioning
SELDOM = {"ON_DEEPCLONE_MULTIGPU", "ON_MATCH_MULTIGPU_CLONES", "ON_DETACH", "ON_APPLY_HOOKS"}


def option_set(setter: str, function, **options):
    def put(model):
        getattr(model, setter)(function, **options)

    return put


def schedule_reader(apply, given):
    """As packs find out how far the sampling is."""
    transformer = given["c"]["transformer_options"]
    at = int((transformer["sample_sigmas"] - transformer["sigmas"][0]).abs().argmin())
    assert len(transformer["uuids"]) == len(given["cond_or_uncond"]) == len(transformer["cond_or_uncond"])
    which = torch.tensor(transformer["cond_or_uncond"]).repeat_interleave(len(given["input"]) // len(given["cond_or_uncond"]))
    return apply(given["input"], given["timestep"], **given["c"]) * (1 + at / 10 + which / 5).reshape(-1, 1, 1, 1)


def again_without_negative(args):
    """As guidance nodes ask the network once more."""
    (once,) = comfy.samplers.calc_cond_batch(
        args["model"], [args["cond"]], args["input"] * 1.01, args["sigma"], args["model_options"]
    )
    return args["denoised"] + (args["cond_denoised"] - once) * 2


def calc(args):
    return [
        part * 0.8
        for part in comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
        )
    ]


FUNCTIONS = {
    "unet function wrapper": option_set("set_model_unet_function_wrapper", schedule_reader),
    "cfg function": option_set("set_model_sampler_cfg_function", lambda a: a["uncond"] + (a["cond"] - a["uncond"]) * 2),
    "cfg function at 1": option_set(
        "set_model_sampler_cfg_function", lambda a: a["uncond"] * 0.5 + a["cond"] * 0.5, disable_cfg1_optimization=True
    ),
    "pre cfg": option_set("set_model_sampler_pre_cfg_function", lambda a: [a["conds_out"][0] * 0.9, a["conds_out"][1]]),
    "pre cfg at 1": option_set(
        "set_model_sampler_pre_cfg_function", lambda a: [a["conds_out"][1], a["conds_out"][0]], disable_cfg1_optimization=True
    ),
    "post cfg": option_set("set_model_sampler_post_cfg_function", again_without_negative),
    "calc cond batch": option_set("set_model_sampler_calc_cond_batch_function", calc),
    "attention patch": option_set("set_model_attn1_patch", lambda q, k, v, extra: (q, k * (1 + extra["sigmas"][0] / 20), v)),
    "object patch": lambda model: model.add_object_patch("diffusion_model.time_embed", Halved(model)),
    "weight wrapper": lambda model: model.add_weight_wrapper(WEIGHT, lambda weight, *_: weight * 1.5),
}
WEIGHT = "diffusion_model.middle_block.1.proj_in.weight"


class Halved(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inside = model.model.diffusion_model.time_embed

    def forward(self, x):
        return self.inside(x) * 0.5


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, guidance):
    model = small_model(KIND)
    FUNCTIONS[name](model)
    assert equals_the_host(model, guidance) > 1e-4 or name == "weight wrapper"


def test_samples_at_different_noise_levels_are_asked_as_the_host_would_ask_each():
    model = small_model(KIND)
    FUNCTIONS["unet function wrapper"](model)
    host = sampled(model, KIND, 3.0, batch=1)
    x, sigma = (torch.cat([getattr(step, name) for step in host.steps]) for name in ("x", "sigma"))
    with open_policy(policy_of(model)) as net:
        found = net.denoise(x, sigma, prompts_for(KIND), [0, 0], 3.0, None, schedule=host.sigmas)
    torch.testing.assert_close(found, torch.cat([step.denoised for step in host.steps]), rtol=1e-5, atol=1e-5)


def test_a_node_that_reads_the_schedule_where_there_is_none():
    model = small_model(KIND)
    FUNCTIONS["unet function wrapper"](model)
    with open_policy(policy_of(model)) as net, pytest.raises(ValueError, match=r"^model: a node .*sample_sigmas"):
        net.denoise(torch.randn(1, *SIZE[KIND]), torch.ones(1), prompts_for(KIND), [0], 1.0, None)


@pytest.mark.parametrize("remembers", [True, False])
def test_a_node_with_chance_or_memory_is_refused(remembers):
    seen: list = []

    def unsteady(args):
        seen.append(args["denoised"])
        return args["denoised"] + 0.3 * (sum(seen) if remembers else torch.randn_like(args["denoised"]))

    model = small_model(KIND)
    model.set_model_sampler_post_cfg_function(unsteady)
    with open_policy(policy_of(model)) as net, pytest.raises(ValueError, match="^model: a node on it answers .*differently"):
        net.denoise(torch.randn(1, *SIZE[KIND]), torch.ones(1), prompts_for(KIND), [0], 1.0, None)


def test_further_models_of_a_model_are_loaded_and_take_part():
    with torch.inference_mode():
        model, other = small_model(KIND), small_model(KIND, seed=5)
    model.set_additional_models("mine", [other])

    def both(apply, given):
        (loaded,) = [m for m in comfy.model_management.current_loaded_models if m.model.model is other.model]
        c = {k: v for k, v in given["c"].items() if k != "transformer_options"}
        return (
            apply(given["input"], given["timestep"], **given["c"])
            + loaded.model.model.apply_model(given["input"], given["timestep"], **c)
        ) / 2

    model.set_model_unet_function_wrapper(both)
    assert equals_the_host(model) > 1e-3
    with torch.inference_mode(False), open_policy(policy_of(model)) as net:
        x = torch.randn(1, *SIZE[KIND]).requires_grad_()
        _, _ = net.gradients(lambda: (net.denoise(x, torch.ones(1), prompts_for(KIND), [0], 1.0, None).sum(), {}), [x])
    assert x.grad.abs().sum() > 0


def test_a_model_on_several_gpus_is_refused():
    model = small_model(KIND)
    model.set_additional_models("multigpu", [small_model(KIND)])
    with pytest.raises(ValueError, match="^model: it is spread over several GPUs"):
        policy_of(model)


def test_guidance_1_costs_no_negative_evaluation_unless_the_host_makes_one():
    for options, per_sample in (({}, 1), ({"disable_cfg1_optimization": True}, 2)):
        model = small_model(KIND)
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9, **options)
        with open_policy(policy_of(model)) as net:
            net.denoise(torch.randn(2, *SIZE[KIND]), torch.ones(2), prompts_for(KIND), [0, 1], 1.0, None)
            assert net.evaluations == 2 * per_sample
    without = PromptSet((Prompt("one"),), (conditioning(KIND, 1),), None)
    with open_policy(policy_of(model)) as net, pytest.raises(ValueError, match="negative prompt"):
        net.denoise(torch.randn(1, *SIZE[KIND]), torch.ones(1), without, [0], 1.0, None)
