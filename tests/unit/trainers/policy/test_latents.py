"""From latents to images and back, with and without a gradient."""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_management
import pytest
import torch
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers.kept_for_backward import Kept
from posttrain.toy.models import load_model, load_vae
from posttrain.trainers.policy import latents as latents_module
from posttrain.trainers.policy.latents import to_images, to_images_with_gradient
from small_models import small_vae, trained_policy

BRIGHT = ColourReward("brightness")


def test_low_memory_decodes_one_image_at_a_time():
    model, vae = trained_policy("sd15").model, small_vae("sd15")
    latents = torch.randn(4, 4, 8, 8)
    results, sizes = [], []
    for recompute in (False, True):
        x = latents.clone().requires_grad_()
        with Kept(vae.first_stage_model.parameters()) as kept:
            images = to_images_with_gradient(model, vae, x, recompute=recompute)
            images.square().sum().backward()
        results.append((images.detach(), x.grad))
        sizes.append(kept.most)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert sizes[1] < 0.35 * sizes[0]


def test_decoding_with_gradient_is_the_hosts_decoding():
    for kind in ("sd15", "sd3"):
        model, vae = trained_policy(kind).model, small_vae(kind)
        latents = torch.randn(2, *vae_shape(kind))
        torch.testing.assert_close(to_images_with_gradient(model, vae, latents), to_images(model, vae, latents))


@pytest.mark.parametrize("decode", [to_images, to_images_with_gradient])
def test_a_vae_of_another_model_is_named(decode):
    model, latents = trained_policy("sd3").model, torch.randn(2, *vae_shape("sd3"))
    with pytest.raises(ValueError, match="^vae: it cannot decode the latents of this model, which have 16 channels; connect"):
        decode(model, small_vae("sd15"), latents)
    assert decode(model, small_vae("sd3"), latents).shape == (2, 64, 64, 3)


def vae_shape(kind: str) -> tuple[int, int, int]:
    return {"sd15": (4, 8, 8), "sd3": (16, 8, 8)}[kind]


@pytest.mark.parametrize("brighter", [True, False])
def test_saturated_pixels_find_back_and_are_not_pushed_out(brighter):
    """In the pixel-space VAE a latent is a pixel in [-1, 1]; a loss pulls up what its gradient is below 0 for."""
    model, vae = load_model("flow"), load_vae()
    latents = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).expand(1, 3, 24, 5).clone().requires_grad_()
    images = to_images_with_gradient(model, vae, latents)
    assert torch.equal(images[0, 0, :, 0], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    torch.testing.assert_close(images, to_images(model, vae, latents.detach()))
    (-BRIGHT(images, ()).sum() if brighter else BRIGHT(images, ()).sum()).backward()
    pulled = (latents.grad < 0 if brighter else latents.grad > 0)[0, 0, 0]
    assert pulled.tolist() == ([True, True, True, True, False] if brighter else [False, True, True, True, True])
    assert bool((latents.grad[..., ~pulled] == 0).all())
    back = 0 if brighter else 4
    torch.testing.assert_close(latents.grad[..., back], latents.grad[..., 2])


def test_a_latent_format_made_by_a_node_can_be_differentiated():
    model, vae = trained_policy("sd15").model, small_vae("sd15")
    with torch.inference_mode():
        model.model.latent_format = comfy.latent_formats.SDXL_Playground_2_5()
    latents = torch.randn(1, 4, 8, 8, requires_grad=True)
    to_images_with_gradient(model, vae, latents).sum().backward()
    assert float(latents.grad.abs().sum()) > 0
    assert model.model.latent_format.latents_std.is_inference(), "the user's model is as it was"


@pytest.mark.parametrize("side, calls", [(8, [16, 1]), (16, [4, 4, 4, 4, 1]), (32, [1] * 3)])
def test_a_cpu_decodes_as_many_pictures_at_once_as_it_is_quick_with(monkeypatch, side, calls):
    """The same pictures in the same order as all at once."""
    model, vae, seen = trained_policy("sd15").model, small_vae("sd15"), []
    latents = torch.randn(sum(calls), 4, side, side, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(latents_module, "CPU_PIXELS", 2**40)
    whole = to_images(model, vae, latents)
    monkeypatch.undo()
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda part: (seen.append(len(part)), decode(part))[1])
    torch.testing.assert_close(to_images(model, vae, latents), whole, rtol=0, atol=1e-5)
    assert seen == calls
