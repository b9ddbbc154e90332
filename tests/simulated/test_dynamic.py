"""A checkpoint that the host's own loader streams ("dynamic VRAM", on newer hosts the usual way on an NVIDIA card): trained as the
user's MODEL stands there, and equal to the CPU."""
from __future__ import annotations

from dataclasses import replace
from functools import cache

import comfy.sd
import pytest
import small_models
import torch
import world
from fingerprint import fingerprint
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.latents import to_images_with_gradient
from safetensors.torch import save_file
from simulated_card import device, dynamic, host
from world import BACKPROP, RAW, TRAINERS, World, gradient

pytestmark = [
    # the CPU's types, to compare with the CPU
    pytest.mark.card(*(("dynamic", "--fp32-unet", "--fp32-vae") if dynamic.exists() else ("none",))),
    pytest.mark.skipif(not dynamic.exists(), reason="this ComfyUI has no dynamic VRAM, newer ones have: python develop.py test "
                       "--comfyui PATH --python ITS_PYTHON tests/simulated -k dynamic")]
# all weights find room on the card and stay, or none does and each goes through a buffer that the next one overwrites
ROOMS = ("resident", "streamed")
ITERATIONS = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One file with a network and a VAE that a user's Load Checkpoint recognises: SD3, and the tiny autoencoder for it."""
    from comfy.taesd.taesd import TAESD
    with dynamic.off():
        network, vae = small_models.small_model("sd3").model.diffusion_model, TAESD(latent_channels=16)
    small_models.random_weights(vae, 17)
    positions = torch.randn(1, 256, network.x_embedder.proj.bias.shape[0], generator=torch.Generator().manual_seed(1)) * 0.1
    weights = {f"model.diffusion_model.{k}": v for k, v in (network.state_dict() | {"pos_embed": positions}).items()}
    weights |= {f"first_stage_model.{k}": v for k, v in vae.state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "sd3.safetensors"
    save_file({k: v.contiguous() for k, v in weights.items()}, path)
    return str(path)


@cache
def of_checkpoint(path: str, where: str):
    """(MODEL, VAE) by the host's Load Checkpoint, on the card or, by the same loader, on the CPU."""
    options = {"load_device": torch.device("cpu")} if where == "cpu" else {}
    with torch.inference_mode():  # as a node runs
        model, _, vae, *_ = comfy.sd.load_checkpoint_guess_config(path, output_clip=False, model_options=options)
    return model, vae


class Loaded(World):
    """A world of the checkpoint's MODEL and VAE."""

    def __init__(self, path: str, where: str = "card"):
        model, vae = of_checkpoint(path, where)
        assert (model.load_device.type, model.is_dynamic()) == (("cpu", False) if where == "cpu" else ("cuda", True))
        policy = create_policy(model, Recipe(rank=4, targets="all linear layers"))
        generator = torch.Generator().manual_seed(7)
        for key, value in policy.bank.items():
            if key.endswith("lora_B"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.05)
        for name, value in {"kind": "sd3", "policy": policy, "vae": vae, "prompts": small_models.prompts_for("sd3")}.items():
            object.__setattr__(self, name, value)


def room(there: World, name: str):
    return host.memory(None if name == "resident" else dynamic.PAGE)


def sampled(model) -> torch.Tensor:
    """What the host's KSampler draws with this MODEL."""
    import comfy.sample
    noise = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, 3, 2.0, "euler", "simple", small_models.conditioning("sd3", 1),
                                   small_models.conditioning("sd3", 3), torch.zeros_like(noise), seed=3, disable_pbar=True).cpu()


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
    with room(there, where):
        picture, decoded = sampled(start.model), world.to_images(start.model, there.vae, torch.zeros(1, 16, 4, 4))
    before = [fingerprint(module) for module in (start.model.model, there.vae.first_stage_model)]
    held, opened, missed = device.counts()["now"], dynamic.opened[checkpoint], dynamic.missed
    with room(there, where):
        # as in a graph where a VAE Decode ran before: its layers keep what lies on the card
        world.to_images(start.model, there.vae, torch.zeros(1, 16, 4, 4))
        new = trained(there, trainer)
    assert new.step == ITERATIONS and not host.strays(new)
    assert (dynamic.missed > missed) == (where == "streamed")
    assert dynamic.opened[checkpoint] == opened, "the checkpoint was read again"
    changes = [torch.cat([(p.bank[k] - start.bank[k]).flatten() for k in sorted(p.bank)]) for p in (new, expected)]
    assert float((changes[0] - changes[1]).norm() / changes[1].norm()) < 1e-3
    assert [fingerprint(module) for module in (start.model.model, there.vae.first_stage_model)] == before
    assert device.counts()["now"] == held
    with room(there, where):
        assert torch.equal(sampled(start.model), picture)
        assert torch.equal(world.to_images(start.model, there.vae, torch.zeros(1, 16, 4, 4)), decoded)
