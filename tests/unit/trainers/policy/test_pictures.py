"""Models, VAEs and latents of something else than single pictures are named before anything is touched; single frames of
videos are pictures."""

from __future__ import annotations

import comfy.model_sampling
import pytest
import torch
from architectures import HERE, small_vae_of
from fingerprint import fingerprint
from host_sampler import policy_of
from posttrain.trainers.noise.paths import EPS, FLOW, V
from posttrain.trainers.policy import path_of
from posttrain.trainers.policy.latents import from_latent_socket, latent_shape, to_images, to_images_with_gradient
from posttrain.trainers.policy.network import open_policy
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import SIZE, PlainVAE, prompts_for, small_model, small_vae, trained_policy

VIDEO = "Wan 2.1"
SMALL = Sampling(steps=2, width=64, height=64, prompts_per_iteration=1, images_per_prompt=2, batch_size=2)


def small_audio_vae():
    vae = small_vae("sd15")
    vae.output_channels = 2
    return vae


def with_format(**values):
    model = small_model("sd15")
    model.model.latent_format = type("Other", (type(model.model.latent_format),), values)()
    return model


def with_config(**values):
    model = small_model("sd15")
    model.model.model_config.unet_config = {**model.model.model_config.unet_config, **values}
    return model


def with_a_memory():
    model = small_model("sd15")
    model.model.diffusion_model.clear_kv_cache = lambda: None
    return model


def with_scaled_noise():
    model = small_model("sd3")
    sampling = type(model.get_model_object("model_sampling"))(model.model.model_config)
    sampling.noise_scale = 7.5
    model.add_object_patch("model_sampling", sampling)
    return model


def with_sampling(*kinds):
    model = small_model("sd15")
    model.add_object_patch("model_sampling", type("ModelSampling", kinds, {})())
    return model


HOST = comfy.model_sampling
VP = [name for name in ("V_PREDICTION_DDPM",) if hasattr(HOST, name)]
REFUSED = {
    "sound": (lambda: with_config(audio_model="ace"), "it makes sound"),
    "a line": (lambda: with_format(latent_dimensions=1), "a single line"),
    "sound with a video": (lambda: with_config(image_model="ltxav"), "a video together with its sound"),
    "3D shapes": (lambda: with_config(image_model="triposplat"), "3D shapes out of a picture"),
    "a sharper video": (lambda: with_config(image_model="seedvr2"), "a given video sharper"),
    "a picture in motion": (lambda: with_config(model_type="animate2"), "sets in motion"),
    "keeps keys and values": (with_a_memory, "keys and values of the prompt"),
    "frames as a batch": (lambda: with_config(use_temporal_attention=True), "the images of a batch for the frames"),
    "image to image": (lambda: with_sampling(HOST.ModelSamplingDiscrete, HOST.IMG_TO_IMG), r"sampling type \(IMG_TO_IMG\)"),
    "noise of another scale": (with_scaled_noise, "its noise is scaled by 7.5"),
    "x0": (lambda: with_sampling(HOST.ModelSamplingDiscrete, HOST.X0), r"sampling type \(X0\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused_by_name(name):
    build, words = REFUSED[name]
    model = build()
    before = fingerprint(model.model)
    with pytest.raises(ValueError, match=f"^model: .*{words}.*; use a model"):
        policy_of(model)
    assert fingerprint(model.model) == before


def test_the_hosts_own_mixtures_have_a_path():
    """Every one that the host ships: trained, or refused by name."""
    trained = {"EPS": EPS, "V_PREDICTION": V, "EDM": V, "CONST": FLOW, "COSMOS_RFLOW": V, "V_PREDICTION_DDPM": V}
    kinds = [kind for name, kind in vars(HOST).items() if isinstance(kind, type) and hasattr(kind, "calculate_denoised")]
    assert len(kinds) >= 6
    for kind in kinds:
        sampling = type("ModelSampling", (HOST.ModelSamplingContinuousEDM, kind), {})()
        if kind.__name__ in trained:
            assert path_of(sampling) == trained[kind.__name__]
        else:
            with pytest.raises(ValueError, match=rf"sampling type \({kind.__name__}\)"):
                path_of(sampling)


@pytest.mark.parametrize("kind", ["EDM", "V_PREDICTION", "COSMOS_RFLOW", *VP])
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_a_path_mixes_as_the_host_does(kind, spread):
    """Data and noise of that level give the state that the host would start from."""
    sampling = type("ModelSampling", (HOST.ModelSamplingContinuousEDM, getattr(HOST, kind)), {})()
    sampling.set_parameters(0.002, 80.0, spread)
    x0, noise, sigma = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([7.0, 0.3])
    torch.testing.assert_close(path_of(sampling).add_noise(x0, noise, sigma), sampling.noise_scaling(sigma, noise.clone(), x0))


def test_a_vae_of_sound_is_refused():
    model, vae = small_model("sd15"), small_audio_vae()
    latents = torch.zeros(1, *SIZE["sd15"])
    for ask in (
        lambda: latent_shape(model, vae, 64, 64),
        lambda: to_images(model, vae, latents),
        lambda: to_images_with_gradient(model, vae, latents),
    ):
        with pytest.raises(ValueError, match="^vae: it decodes to 2 channels"):
            ask()


def test_videos_of_several_frames_are_refused():
    model, vae = small_model(VIDEO), small_vae_of(VIDEO)
    long = torch.zeros(1, 16, 3, 8, 8)
    for ask in (
        lambda: to_images(model, vae, long),
        lambda: to_images_with_gradient(model, vae, long),
        lambda: from_latent_socket(model, {"samples": long}),
    ):
        with pytest.raises(ValueError, match="^latent: it holds videos of 3 latent frames.*set the length to 1"):
            ask()


def test_a_vae_that_makes_a_video_of_one_frame_is_refused():
    class Stretching(PlainVAE):
        def decode(self, latents):
            return super().decode(latents[:, :, 0])[:, None].repeat(1, 4, 1, 1, 1)

    with pytest.raises(ValueError, match="^vae: it makes 4 frames"):
        to_images(small_model(VIDEO), Stretching(), torch.zeros(1, 16, 1, 8, 8))


def test_a_single_frame_is_a_picture_with_either_kind_of_vae():
    model, latents = small_model(VIDEO), torch.randn(2, 16, 1, 8, 8)
    for vae in (small_vae_of(VIDEO), small_vae("sd3")):
        images = to_images(model, vae, latents)
        assert images.shape == (2, 64, 64, 3)
        torch.testing.assert_close(to_images_with_gradient(model, vae, latents).detach(), images, rtol=1e-4, atol=1e-5)


def test_latents_of_a_sampler_get_the_axis_that_the_model_has():
    """As the host gives an empty latent of images the axis of time, and takes it away."""
    frame = {"samples": torch.randn(2, 16, 8, 8)}
    assert from_latent_socket(small_model(VIDEO), frame).shape == (2, 16, 1, 8, 8)
    assert from_latent_socket(small_model("sd3"), {"samples": frame["samples"].unsqueeze(2)}).shape == (2, 16, 8, 8)


@pytest.mark.skipif("Hunyuan Image 2.1 refiner" not in HERE, reason="this host has no format that folds")
def test_latents_of_a_format_that_folds_them():
    name = "Hunyuan Image 2.1 refiner"
    model = small_model(name)
    assert from_latent_socket(model, {"samples": torch.randn(2, 32, 1, 4, 4)}).shape == (2, *SIZE[name])
    with pytest.raises(ValueError, match="have 64 channels, but the policy's model has 32"):
        from_latent_socket(model, {"samples": torch.randn(2, 64, 1, 4, 4)})


@pytest.mark.parametrize("kind", [VIDEO, "LTX-Video", "Qwen-Image"])
def test_a_rollout_of_single_frames(kind):
    """The first step's ratio is 1 in the last digit: see the matrix of tests/host/test_architectures.py."""
    made = rollout(trained_policy(kind), prompts_for(kind), small_vae_of(kind), SMALL, 0)
    assert made.latents.shape == (2, SIZE[kind][0], 1, 8, 8) and made.images.shape == (2, 64, 64, 3)


def test_strided_tokens_give_the_same_numbers_with_and_without_gradient():
    """torch multiplies them otherwise where a weight wants a gradient."""
    policy, found = trained_policy("LTX-Video"), []
    x, sigma = torch.randn(2, *SIZE["LTX-Video"]), torch.full((2,), 0.7)
    with open_policy(policy) as net:
        for train in (False, True):
            bank = net.to_device(policy.bank, train)
            with torch.set_grad_enabled(train):
                found.append(net.denoise(x, sigma, prompts_for("LTX-Video"), [0, 1], 1.0, bank).detach())
    assert torch.equal(*found)


def test_noise_on_the_image_of_a_conditioning_has_a_seed():
    """unCLIP and upscalers add noise to it, from the sampler's seed: without one they failed."""
    name = "SD x4 upscaler"
    x = torch.randn(1, *SIZE[name])
    with open_policy(policy_of(small_model(name))) as net:
        assert net.denoise(x, torch.ones(1), prompts_for(name), [0], 1.0, None).isfinite().all()
