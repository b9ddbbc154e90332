"""A checkpoint that the host's own loader streams ("dynamic VRAM", on newer hosts the usual way on an NVIDIA card): trained as the
user's MODEL stands there, and equal to the CPU."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cache

import comfy.sd
import comfy.utils
import pytest
import small_models
import torch
import world
from fingerprint import fingerprint
from posttrain.trainers.policy import Recipe, create_policy, open_policy, policy_as_model
from posttrain.trainers.policy.latents import to_images_with_gradient
from safetensors.torch import save_file
from simulated_card import aimdo, device, dynamic, host
from small_checkpoint import write_checkpoint
from world import BACKPROP, RAW, TRAINERS, World, gradient

pytestmark = [
    # the CPU's types, to compare with the CPU
    pytest.mark.card(*(("dynamic", "--fp32-unet", "--fp32-vae") if dynamic.exists() else ("none",))),
    pytest.mark.skipif(
        not dynamic.exists(),
        reason="this ComfyUI has no dynamic VRAM, newer ones have: python develop.py test "
        "--comfyui PATH --python ITS_PYTHON tests/simulated -k dynamic",
    ),
]
# all weights find room on the card and stay; or each is taken back once its layer has answered; or none finds room, and each
# goes through a buffer that the next one overwrites
ROOMS = ("resident", "taken back", "streamed")
ITERATIONS = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "sd3.safetensors"))


@cache
def of_checkpoint(path: str, where: str):
    """(MODEL, VAE) by the host's Load Checkpoint, on the card or, by the same loader, on the CPU."""
    options = {"load_device": torch.device("cpu")} if where == "cpu" else {}
    with torch.inference_mode():  # as a node runs
        model, _, vae, *_ = comfy.sd.load_checkpoint_guess_config(path, output_clip=False, model_options=options)
    return model, vae


class Loaded(World):
    """A world of the checkpoint's MODEL and VAE."""

    def __init__(self, path: str, where: str = "card", model=None):
        """model: another on the same network."""
        own, vae = of_checkpoint(path, where)
        model = model or own
        assert (model.load_device.type, model.is_dynamic()) == (("cpu", False) if where == "cpu" else ("cuda", True))
        policy = create_policy(model, Recipe(rank=4, targets="all linear layers"))
        generator = torch.Generator().manual_seed(7)
        for key, value in policy.bank.items():
            if key.endswith("lora_B"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.05)
        for name, value in {"kind": "sd3", "policy": policy, "vae": vae, "prompts": small_models.prompts_for("sd3")}.items():
            object.__setattr__(self, name, value)


@contextlib.contextmanager
def room(name: str):
    with (
        host.memory(aimdo.PAGE if name == "streamed" else None),
        dynamic.taken_back() if name == "taken back" else contextlib.nullcontext(),
    ):
        yield


def trained(there: World, trainer: type):
    """The policy after some iterations, each with images of its own."""
    for _ in range(ITERATIONS):
        object.__setattr__(there, "policy", world.step(there, trainer, replace(RAW, learning_rate=1e-2)))
    return there.policy


@pytest.mark.parametrize("name", ["FlowGRPO", "DRaFT"])
@pytest.mark.parametrize("where", ROOMS)
def test_three_iterations_are_the_cpus_and_read_the_checkpoint_once(checkpoint, where, name):
    trainer, there = next(t for t in TRAINERS if t.__name__ == name), Loaded(checkpoint)
    expected = trained(Loaded(checkpoint, "cpu"), trainer)
    start = there.policy
    with room(where):
        picture, decoded = world.sampled(start.model), world.to_images(start.model, there.vae, torch.zeros(1, 16, 4, 4))
    before = [fingerprint(module) for module in (start.model.model, there.vae.first_stage_model)]
    held, opened, missed = device.counts()["now"], aimdo.opened[checkpoint], aimdo.missed
    with room(where):
        # as in a graph where a VAE Decode ran before: its layers keep what lies on the card
        world.to_images(start.model, there.vae, torch.zeros(1, 16, 4, 4))
        new = trained(there, trainer)
    assert new.step == ITERATIONS and not host.strays(new)
    assert (aimdo.missed > missed) == (where == "streamed")
    assert aimdo.opened[checkpoint] == opened, "the checkpoint was read again"
    changes = [torch.cat([(p.bank[k] - start.bank[k]).flatten() for k in sorted(p.bank)]) for p in (new, expected)]
    assert float((changes[0] - changes[1]).norm() / changes[1].norm()) < 1e-3
    assert [fingerprint(module) for module in (start.model.model, there.vae.first_stage_model)] == before
    assert device.counts()["now"] == held
    with room(where):
        assert torch.equal(world.sampled(start.model), picture)
        assert torch.equal(world.to_images(start.model, there.vae, torch.zeros(1, 16, 4, 4)), decoded)


@cache
def expected(path: str, trainer: type):
    """(rollout, feedback, policy after a step) on the CPU; no rollout for trainers through the reward."""
    there = Loaded(path, "cpu")
    if trainer in BACKPROP:
        return None, None, world.step(there, trainer)
    made, feedback = world.made_for(there, trainer)
    return made, feedback, step_from(there, trainer, made, feedback)


def step_from(there: World, trainer: type, made, feedback, **optimizer):
    chosen = world.Trainer(world.settings_of(trainer, there.policy), replace(RAW, **optimizer))
    return world.train_step(there.policy, made, feedback, chosen)


@pytest.mark.parametrize("low", [False, True], ids=["", "low"])
@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda t: t.__name__)
def test_every_trainers_streamed_step_is_the_cpus(checkpoint, trainer, low):
    made, feedback, cpus = expected(checkpoint, trainer)
    there, missed = Loaded(checkpoint), aimdo.missed
    with room("streamed"):
        new = (
            world.step(there, trainer, replace(RAW, low_memory=low))
            if trainer in BACKPROP
            else step_from(there, trainer, made, feedback, low_memory=low)
        )
    assert new.metrics["updates"] and not new.metrics["skipped_updates"] and aimdo.missed > missed
    assert not host.strays(new)
    assert float((gradient(new) - gradient(cpus)).norm() / gradient(cpus).norm()) < 1e-3


def test_streamed_weights_take_less_of_the_card(checkpoint):
    trainer = next(t for t in TRAINERS if t.__name__ == "NFT")
    made, feedback, _ = expected(checkpoint, trainer)
    there, peaks = Loaded(checkpoint), {}
    for where in ROOMS:
        with room(where):
            device.reset()
            step_from(there, trainer, made, feedback)
            peaks[where] = device.counts()["peak"]
    assert max(peaks["streamed"], peaks["taken back"]) < peaks["resident"] - there.size // 2


def of_config(path: str, where: str):
    """A VAE with norms and attention, from its configuration, as loaders of other packs make one; path: to keep its weights."""
    shape = dict(
        double_z=True,
        z_channels=16,
        resolution=64,
        in_channels=3,
        out_ch=3,
        ch=32,
        ch_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        attn_resolutions=[],
        dropout=0.0,
    )
    with dynamic.off():
        save_file({k: v.clone() for k, v in small_models.small_vae("sd3").first_stage_model.state_dict().items()}, path)
    options = {"device": torch.device("cpu")} if where == "cpu" else {}
    with torch.inference_mode():
        vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": shape, "embed_dim": 16}}, **options)
        vae.first_stage_model.load_state_dict(comfy.utils.load_torch_file(path), assign=vae.patcher.is_dynamic())
    return vae


def reward_gradient(model, vae, recompute: bool = False):
    """(pictures, gradient of a sum over their pixels towards the latents)"""
    policy = create_policy(model, Recipe(rank=1, targets="all linear layers"))
    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(5)).to(vae.device).requires_grad_()
    with open_policy(policy, also_load=[vae.patcher]), torch.enable_grad():
        pictures = to_images_with_gradient(model, vae, latents, recompute=recompute)
        weights = torch.linspace(0, 1, pictures.numel()).reshape(pictures.shape).to(pictures.device)
        (pictures * weights).sum().backward()
    return pictures.detach().cpu(), latents.grad.cpu()


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("decoded", [False, True], ids=["", "decoded_before"])
@pytest.mark.parametrize("where", ROOMS)
@pytest.mark.parametrize("kind", ["of_checkpoint", "of_config"])
def test_the_gradient_through_a_streamed_vae_is_the_cpus(checkpoint, tmp_path, kind, where, decoded, recompute):
    found = []
    for device_of in ("card", "cpu"):
        model, vae = of_checkpoint(checkpoint, device_of)
        vae = vae if kind == "of_checkpoint" else of_config(str(tmp_path / f"{device_of}.safetensors"), device_of)
        assert vae.patcher.is_dynamic() == (device_of == "card")
        missed = aimdo.missed
        with room(where):
            if decoded:
                world.to_images(model, vae, torch.zeros(1, 16, 8, 8))
            found.append(reward_gradient(model, vae, recompute))
        assert (aimdo.missed > missed) == (where == "streamed" and device_of == "card")
    for card, cpu in zip(*found):
        assert float(cpu.norm()) > 0
        torch.testing.assert_close(card, cpu, rtol=1e-3, atol=1e-4 * float(cpu.abs().max()))


def other_packs_model(path: str, where: str):
    """A MODEL of a loader that did not tell the host how to load it once more."""
    options = {"load_device": torch.device("cpu")} if where == "cpu" else {}
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(comfy.utils.load_torch_file(path), model_options=options)
    assert model.cached_patcher_init is None
    return model


def with_a_lora(path: str, where: str):
    """The user's own LoRA under the policy, as the stock loader puts it there."""
    return policy_as_model(Loaded(path, where).policy)


@pytest.mark.parametrize("model_of", [other_packs_model, with_a_lora], ids=lambda f: f.__name__)
@pytest.mark.parametrize("where", ROOMS)
def test_a_model_from_elsewhere_is_trained_as_it_streams(checkpoint, where, model_of):
    trainer = next(t for t in TRAINERS if t.__name__ == "FlowGRPO")
    cpus = Loaded(checkpoint, "cpu", model_of(checkpoint, "cpu"))
    made, feedback = world.made_for(cpus, trainer)
    there = Loaded(checkpoint, model=model_of(checkpoint, "card"))
    with room(where):
        new = step_from(there, trainer, made, feedback)
    wanted = gradient(step_from(cpus, trainer, made, feedback))
    assert float((gradient(new) - wanted).norm() / wanted.norm()) < 1e-3 and not host.strays(new)


@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
@pytest.mark.parametrize("where", ROOMS)
def test_the_first_ratio_is_one_in_fp8(checkpoint, where, lora):
    """The host rounds a weight with a LoRA over it after its first use: the policy asks only rounded ones."""
    trainer = next(t for t in TRAINERS if t.__name__ == "FlowGRPO")
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model(checkpoint, model_options={"dtype": torch.float8_e4m3fn})
    if lora:
        model = policy_as_model(Loaded(checkpoint, model=model).policy)
    there = Loaded(checkpoint, model=model)
    with room(where):
        made, feedback = world.made_for(there, trainer)
        metrics = step_from(there, trainer, made, feedback).metrics
    assert metrics["updates"] and metrics["ratio_largest_change"] == 0
