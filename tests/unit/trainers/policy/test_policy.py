"""What a policy promises: the reference for free, the user's model untouched, any weights, any conditioning."""
from __future__ import annotations

import comfy.model_management
import pytest
import torch
from one_answer import host_answer, inputs, train_a_little
from posttrain.rewards.base.reward import Prompt
from posttrain.trainers.policy import Recipe, create_policy, lora_state_dict, open_policy, policy_as_model, save_lora
from posttrain.trainers.policy.value import Policy
from posttrain.trainers.prompts import PromptSet
from small_models import ARCHITECTURES, conditioning, prompts_for, small_model, trained_policy


def weights_of(model):
    return {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("guidance, weights", [(1.0, torch.float32), (3.0, torch.float32), (1.0, torch.bfloat16),
                                               (1.0, torch.float8_e4m3fn)])
def test_bank_off_is_the_base_model(kind, guidance, weights):
    policy = trained_policy(kind, weights, None if weights == torch.float32 else torch.bfloat16)
    x, sigma = inputs(kind)
    with open_policy(policy) as net:
        ours = net.denoise(x, sigma, prompts_for(kind), [0, 0], guidance, None)
        changed = net.denoise(x, sigma, prompts_for(kind), [0, 0], guidance, net.to_device(policy.bank))
    host = host_answer(policy.model, kind, x, sigma, guidance)
    if guidance == 1.0:
        assert torch.equal(ours, host)
    torch.testing.assert_close(ours, host, rtol=1e-5, atol=1e-5)
    assert (changed - ours).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_new_bank_changes_nothing(kind):
    policy = create_policy(small_model(kind), Recipe(rank=2))
    x, sigma = inputs(kind)
    with open_policy(policy) as net:
        off = net.denoise(x, sigma, prompts_for(kind), [0, 1], 2.0, None)
        on = net.denoise(x, sigma, prompts_for(kind), [0, 1], 2.0, net.to_device(policy.bank))
    assert torch.equal(off, on)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_prompts_of_different_lengths_are_evaluated_apart(kind):
    """A batch of unequal texts gives each sample what it would get alone."""
    policy, prompts = trained_policy(kind), prompts_for(kind, (6, 10))
    x, sigma = inputs(kind, 3)
    with open_policy(policy) as net:
        together = net.denoise(x, sigma, prompts, [0, 1, 0], 2.0, None)
        alone = torch.cat([net.denoise(x[i:i + 1], sigma[i:i + 1], prompts, [p], 2.0, None)
                           for i, p in enumerate([0, 1, 0])])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


LOW = [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float8_e4m3fn, torch.float32),
       (torch.float8_e4m3fn, torch.bfloat16)]


def bank_gradient(policy, kind: str) -> torch.Tensor:
    x, sigma = inputs(kind)
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        net.gradients(lambda: (net.denoise(x, sigma, prompts_for(kind), [0, 1], 1.0, bank).square().mean(), {}),
                      list(bank.values()))
    return torch.cat([weight.grad.flatten() for weight in bank.values()])


@pytest.mark.parametrize("dtype, compute", LOW, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_low_precision_weights_give_the_gradient_of_the_same_numbers_in_float32(kind, dtype, compute):
    policy, full = trained_policy(kind, dtype, compute), trained_policy(kind)
    full.model.model.diffusion_model.load_state_dict(
        {key: value.float() for key, value in weights_of(policy.model).items()})
    before = weights_of(policy.model)
    found, expected = bank_gradient(policy, kind), bank_gradient(full, kind)
    assert found.dtype == torch.float32 and bool(found.isfinite().all())
    error = float((found - expected).norm() / expected.norm())
    assert error < (1e-3 if compute == torch.float32 else 0.1), error
    after = weights_of(policy.model)
    assert all(torch.equal(before[k].view(torch.uint8), after[k].view(torch.uint8)) for k in before)


def test_weights_made_in_inference_mode_are_used_without_a_copy():
    with torch.inference_mode():
        model = small_model("sd3")
        cond = conditioning("sd3", 1)
    storage = {k: v.untyped_storage().data_ptr() for k, v in model.model.diffusion_model.named_parameters()}
    policy = create_policy(model, Recipe(rank=2))
    prompts = PromptSet((Prompt("one"),), (cond,), None)
    x, sigma = inputs("sd3")
    with torch.inference_mode():  # as a node runs
        with open_policy(policy) as net:
            bank = net.to_device(policy.bank, train=True)
            net.gradients(lambda: (net.denoise(x, sigma, prompts, [0, 0], 1.0, bank).square().mean(), {}),
                          list(bank.values()))
    assert any(b.grad is not None and float(b.grad.abs().sum()) > 0 for b in bank.values())
    assert storage == {k: v.untyped_storage().data_ptr() for k, v in model.model.diffusion_model.named_parameters()}


def test_an_error_inside_leaves_the_model_as_it_was():
    policy = trained_policy("sd3")
    before = weights_of(policy.model)
    x, sigma = inputs("sd3")
    host = host_answer(policy.model, "sd3", x, sigma, 1.0)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        with open_policy(policy):
            raise comfy.model_management.InterruptProcessingException()
    assert not any("forward" in m.__dict__ for m in policy.model.model.diffusion_model.modules())
    assert torch.equal(host, host_answer(policy.model, "sd3", x, sigma, 1.0))
    after = weights_of(policy.model)
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_training_goes_on_after_the_host_unloaded_the_model(kind):
    """Two updates with everything thrown out between and after them are the two updates without."""
    results = []
    for unload in (False, True):
        policy = trained_policy(kind)
        for _ in range(2):
            policy = train_a_little(policy, kind)
            if unload:
                comfy.model_management.unload_all_models()
        results.append(policy.bank)
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert any(not torch.equal(results[0][key], trained_policy(kind).bank[key]) for key in results[0])


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_weights_that_the_host_streams_in_give_the_same_gradient(kind):
    """Where memory is short the host leaves layers in RAM and casts each weight in its forward."""
    policy = trained_policy(kind)
    expected = bank_gradient(policy, kind)
    streamed = [m for m in policy.model.model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
    for module in streamed:
        module.comfy_cast_weights = True
    assert len(streamed) > 10
    torch.testing.assert_close(bank_gradient(policy, kind), expected, rtol=1e-5, atol=1e-8)


def test_a_users_own_lora_stays_active():
    policy = trained_policy("sd3")
    model = policy_as_model(policy)  # a MODEL with an ordinary LoRA on it
    x, sigma = inputs("sd3")
    with open_policy(create_policy(model, Recipe(rank=2))) as net:
        ours = net.denoise(x, sigma, prompts_for("sd3"), [0, 0], 1.0, None)
    assert torch.equal(ours, host_answer(model, "sd3", x, sigma, 1.0))
    assert not torch.equal(ours, host_answer(policy.model, "sd3", x, sigma, 1.0))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_exported_lora_in_the_stock_loader_is_the_policy(kind, tmp_path):
    import comfy.sd
    import comfy.utils
    policy = trained_policy(kind)
    x, sigma = inputs(kind)
    with open_policy(policy) as net:
        ours = net.denoise(x, sigma, prompts_for(kind), [0, 0], 1.0, net.to_device(policy.bank))
    base = host_answer(policy.model, kind, x, sigma, 1.0)
    path = save_lora(policy, tmp_path / "a" / "lora.safetensors", {"note": "test"})
    loaded, _ = comfy.sd.load_lora_for_models(policy.model, None, comfy.utils.load_torch_file(str(path)), 1.0, 0)
    assert len(loaded.patches) == len(policy.bank) // 2, "every layer of the bank must be found by the loader"
    torch.testing.assert_close(host_answer(loaded, kind, x, sigma, 1.0), ours, rtol=1e-4, atol=1e-4)
    assert torch.equal(base, host_answer(policy.model, kind, x, sigma, 1.0)), "unloading gives the base back"


def test_state_comes_back_bit_for_bit():
    policy = trained_policy("sd3")
    policy = Policy(**{**policy.__dict__, "ema": policy.bank, "anchors": {"old": policy.bank}, "step": 3,
                       "optimizer": {"a.exp_avg": torch.ones(2)}, "memory": {"rewards": {"1": [0.5]}}})
    again = create_policy(policy.model, policy.recipe).with_state(*policy.state())
    assert again.step == 3 and again.memory == policy.memory and again.anchors.keys() == {"old"}
    assert all(torch.equal(policy.bank[k], again.bank[k]) for k in policy.bank)
    assert torch.equal(again.optimizer["a.exp_avg"], torch.ones(2))


def test_state_of_another_rank_is_refused():
    state = trained_policy("sd3", rank=4).state()
    with pytest.raises(ValueError, match="other layers or another rank"):
        trained_policy("sd3", rank=2).with_state(*state)


@pytest.mark.parametrize("recipe, message", [
    (Recipe(rank=100_000), "rank: 100000 is larger than layer"),
    (Recipe(rank=0), "rank: 0"),
    (Recipe(pattern="no such layer"), "no trainable layer"),
    (Recipe(pattern="("), "not a valid regular expression"),
])
def test_bad_recipes_say_what_to_do(recipe, message):
    with pytest.raises(ValueError, match=message):
        create_policy(small_model("sd3"), recipe)


@pytest.mark.parametrize("key, what", [("gligen", "GLIGEN boxes"), ("hooks", "hooks"), ("additional_models", "further models")])
def test_conditionings_that_cannot_be_trained_through_are_named(key, what):
    cond = conditioning("sd3", 1)
    cond[0][1][key] = object()
    prompts = PromptSet((Prompt("one"),), (cond,), None)
    x, sigma = inputs("sd3")
    with open_policy(trained_policy("sd3")) as net, pytest.raises(ValueError, match=what):
        net.denoise(x, sigma, prompts, [0, 0], 1.0, None)


def test_lora_keys_carry_alpha():
    policy = trained_policy("sd3")
    keys = lora_state_dict(policy)
    assert len(keys) == len(policy.bank) * 3 // 2
    assert all(k.startswith("diffusion_model.") for k in keys)
