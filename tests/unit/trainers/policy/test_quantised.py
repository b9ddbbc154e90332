"""Quantised checkpoints as people have them, from the host's own loader and from the GGUF pack."""
from __future__ import annotations

from dataclasses import replace

import comfy.sd
import pytest
import torch
from fingerprint import fingerprint
from posttrain.rewards.base.reward import Scores
from posttrain.rewards.rules.colour import ColourReward
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, backprop_step, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import TARGETS, Recipe, checkpoint, create_policy, open_policy, save_lora
from posttrain.trainers.policy.bank import trainable_layers
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from quantised_models import FLUX, FORMATS, GGUF, dense_twin, kind_of, model_in
from small_models import SIZE, PlainVAE, conditioning, prompts_for, small_model, small_vae

RATE = {"sd3": 2e-2, FLUX: 5e-3}
SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4)

LOST_IN_MERGING = {"nvfp4": 0.6}  # of a LoRA's effect; in the weights themselves the host's rounding to 4 bits loses more
ROUNDS_INPUTS = ("fp8_fast", "int8_tensorwise")
ROUNDED = 0.1  # of kernels that round what comes into a layer, too


@pytest.fixture(autouse=True, params=[False, True], ids=["watched", "overwriting"])
def what_is_known_of_a_network(request, monkeypatch):
    """One that was not seen to keep its activations is watched; of one that overwrites them copies are kept."""
    monkeypatch.setattr(checkpoint, "_plain_models", set())
    monkeypatch.setattr(checkpoint, "_mutating_models", set())
    if request.param:
        monkeypatch.setattr(checkpoint, "mutates", lambda model: True)


@pytest.fixture(scope="module", params=[*FORMATS, *(f"gguf {name}" for name in GGUF)])
def format(request):
    return request.param


@pytest.fixture(scope="module")
def model(format, tmp_path_factory):
    return model_in(format, tmp_path_factory.mktemp("files"))


@pytest.fixture(autouse=True)
def unchanged(model):
    """After every test the MODEL is bit for bit what it was, types included, and gives the same answer."""
    answer, before = host_answer(model), fingerprint(model.model)
    yield
    after = fingerprint(model.model)
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] != after[key]] == []
    assert torch.equal(answer, host_answer(model))


def inputs():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, *SIZE["sd3"], generator=generator), torch.tensor([0.8, 0.4])


def host_answer(model):
    import comfy.sampler_helpers
    import comfy.samplers
    x, sigma = inputs()
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        conds = {name: comfy.sampler_helpers.convert_cond(conditioning(kind_of(model), which)) for name, which in
                 (("positive", 1), ("negative", 3))}
        conds = comfy.samplers.process_conds(model.model, x, conds, x.device, latent_image=torch.zeros_like(x))
        model.pre_run()
        return comfy.samplers.sampling_function(model.model, x, sigma, conds["negative"], conds["positive"], 2.0,
                                                model_options=model.model_options)


def trained(model, targets: str = "all linear layers and convolutions"):
    """A policy whose bank is not at its start, so that gradients reach A as well as B."""
    policy = create_policy(model, Recipe(rank=4, targets=targets))
    generator = torch.Generator().manual_seed(7)
    for key, value in policy.bank.items():
        if key.endswith("lora_B"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05)
    return policy


def prompts_of(policy):
    return prompts_for(kind_of(policy.model))


def answered(policy, guidance: float = 2.0, bank=None, prompts=(0, 0)):
    x, sigma = inputs()
    with torch.inference_mode(), open_policy(policy) as net:
        bank = None if bank is None else net.to_device(bank)
        return net.denoise(x, sigma, prompts_of(policy), prompts, guidance, bank)


def gradient(policy, blocks: bool = False):
    x, sigma = inputs()
    with open_policy(policy) as net:
        net.recomputing_blocks(blocks)
        bank = net.to_device(policy.bank, train=True)
        net.gradients(lambda: (net.denoise(x, sigma, prompts_of(policy), [0, 1], 2.0, bank).square().mean(), {}),
                      list(bank.values()))
        return {key: weight.grad.double() for key, weight in bank.items()}


@pytest.mark.parametrize("targets", TARGETS)
def test_the_same_layers_are_found_as_in_the_plain_model(model, targets):
    models = model, small_model(kind_of(model))
    found, plain = (trainable_layers(m.model.diffusion_model, Recipe(targets=targets)) for m in models)
    assert list(found) == list(plain)
    policies = [create_policy(m, Recipe(rank=2, targets=targets)) for m in models]
    assert {k: v.shape for k, v in policies[0].bank.items()} == {k: v.shape for k, v in policies[1].bank.items()}


def test_bank_off_is_what_a_sampler_gets(model):
    assert torch.equal(answered(trained(model)), host_answer(model))


@pytest.mark.parametrize("blocks", [False, True])
def test_the_gradient_is_that_of_the_numbers_which_the_weights_stand_for(model, format, blocks):
    policy = trained(model)
    found, expected = gradient(policy, blocks), gradient(trained(dense_twin(model)))
    error, size = (sum(float(g.square().sum()) for g in gs) ** 0.5 for gs in
                   ([found[k] - expected[k] for k in expected], list(expected.values())))
    rounds_what_comes_in = format.startswith("int8") or format == "fp8_fast"
    assert error < (ROUNDED if rounds_what_comes_in else 1e-4) * size, error / size
    assert all(float(found[key].norm()) > 0 for key in expected)


def test_the_backward_keeps_no_dequantised_copy(model):
    policy = create_policy(model, Recipe(rank=1, targets="attention"))
    x, sigma = inputs()
    shapes = {tuple(layer.weight.shape) for layer in small_model(kind_of(model)).model.diffusion_model.modules()
              if isinstance(layer, torch.nn.Linear) and min(layer.weight.shape) >= 128}  # no activation looks like that
    kept = []

    def pack(tensor):
        if type(tensor) is torch.Tensor and (tuple(tensor.shape) in shapes or tuple(tensor.shape[::-1]) in shapes):
            kept.append(tuple(tensor.shape))
        return tensor

    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = net.denoise(x, sigma, prompts_of(policy), [0, 1], 1.0, bank)
        assert out.requires_grad and kept == []


@pytest.mark.sweep
@pytest.mark.parametrize("settings", [FlowGRPO(), NFT(levels=2, kl_weight=0)], ids=lambda s: type(s).__name__)
def test_a_rollout_and_its_steps_make_better_images_likelier(model, format, settings):
    policy, optimizer = trained(model), Optimizer(learning_rate=RATE[kind_of(model)])
    sampling = small_for(format)
    sampling = sampling if isinstance(settings, FlowGRPO) else replace(sampling, transition="deterministic")
    with torch.inference_mode():
        start = brightness(policy, sampling)
        for iteration in range(3):
            run = rollout(policy, prompts_of(policy), PlainVAE(), sampling, iteration)
            scores = Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {})
            policy = train_step(policy, run, advantages(scores), Trainer(settings, optimizer))
            assert policy.metrics["updates"] == 1
        assert brightness(policy, sampling) > start


def small_for(format: str) -> Sampling:
    """On a processor a product of fp8 matrices takes a thousand times as long as one of others."""
    return replace(SMALL, steps=3, width=32, height=32, images_per_prompt=2) if format == "fp8_fast" else SMALL


def brightness(policy, sampling) -> float:
    return float(rollout(policy, prompts_of(policy), PlainVAE(), sampling, 9).images.mean())


@pytest.mark.sweep
def test_the_first_ratio_is_one(model, format):
    policy = trained(model)
    with torch.inference_mode():
        run = rollout(policy, prompts_of(policy), PlainVAE(), small_for(format), 0)
        scores = Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {})
        new = train_step(policy, run, advantages(scores), Trainer(FlowGRPO(), Optimizer(learning_rate=1e-3)))
    assert new.metrics["ratio_largest_change"] == 0


@pytest.mark.sweep
def test_draft_raises_its_reward(model):
    policy, vae = trained(model), small_vae("sd3")
    sampling = Sampling(steps=3, width=64, height=64, prompts_per_iteration=2, images_per_prompt=1, batch_size=2)
    means = []
    with torch.inference_mode():
        for _ in range(3):
            policy, _ = backprop_step(policy, prompts_of(policy), vae, ColourReward("brightness", "more", 0, 1), sampling,
                                   Trainer(DRaFT(steps=1), Optimizer(learning_rate=1e-2)))
            means.append(policy.metrics["reward_mean"])
    assert means[-1] > means[0]


def with_exported(policy, model, folder):
    """The model with the policy's LoRA, by the host's stock loader."""
    path = save_lora(policy, folder / "lora.safetensors", {})
    loaded, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(path)), 1.0, 0)
    assert len(loaded.patches) == len(policy.bank) // 2
    return loaded


def test_the_exported_lora_in_the_stock_loader_is_the_policy(format, tmp_path):
    if format.startswith("packed"):
        pytest.skip("layers that no LoRA of the host's can be merged into")
    model = model_in(format, tmp_path)  # its own: the host itself writes new tensors when it merges and unmerges
    policy = trained(model, "all linear layers")
    base, ours = host_answer(model), answered(policy, bank=policy.bank)
    with torch.inference_mode():
        unrounded = host_answer(with_exported(policy, dense_twin(model), tmp_path))
        merged = host_answer(with_exported(policy, model, tmp_path))
    change = float((ours - base).norm())
    assert float((unrounded - ours).norm()) < (0.2 if format in ROUNDS_INPUTS else 1e-4) * change
    # the host rounds the merged weights to the file's own precision, at random up or down
    assert float((merged - ours).norm()) < LOST_IN_MERGING.get(format, 0.5) * change


@pytest.mark.parametrize("error", [comfy.model_management.InterruptProcessingException, RuntimeError])
def test_an_error_or_a_cancel_changes_nothing(model, error):
    x, sigma = inputs()
    policy = trained(model)
    with torch.inference_mode(), pytest.raises(error), open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)

        def loss_of():
            net.denoise(x, sigma, prompts_of(policy), [0, 1], 2.0, bank)
            raise error("stopped")

        net.gradients(loss_of, list(bank.values()))


def test_a_train_step_says_nothing_for_each_layer(model, caplog):
    """Where fast arithmetic has no gradient the host tells of it in every layer of every step."""
    policy = trained(model)
    with caplog.at_level("INFO"):
        gradient(policy)
    assert [record.getMessage() for record in caplog.records if "xception" in record.getMessage()] == []


@pytest.mark.skipif(not hasattr(comfy.sd, "load_bypass_lora_for_models"), reason="this ComfyUI merges every LoRA")
def test_the_exported_lora_beside_the_weights_loses_nothing(format, tmp_path):
    """By the host's Load LoRA (Bypass), which rounds nothing; but where activations are rounded to fp8 the policy rounds the sum
    of a layer and its LoRA once, the host its parts before, and the coarse steps show it."""
    if format.startswith(("packed", "gguf")):
        pytest.skip("not a file of the host's own")
    model = model_in(format, tmp_path)
    policy = trained(model, "all linear layers")
    base, ours = host_answer(model), answered(policy, bank=policy.bank)
    path = save_lora(policy, tmp_path / "lora.safetensors", {})
    with torch.inference_mode():
        beside, _ = comfy.sd.load_bypass_lora_for_models(model, None, comfy.utils.load_torch_file(str(path)), 1.0, 0)
        found = host_answer(beside)
    allowed = 0.15 if format == "fp8_fast" else 0.0
    assert (found - ours).norm() <= allowed * (base - ours).norm() and not torch.equal(base, ours)
