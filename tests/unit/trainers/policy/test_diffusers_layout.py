"""Models that the host's loaders read from diffusers' layout train like others: saved by diffusers' own classes, small or of
the smallest size that the host knows, with random weights."""

from __future__ import annotations

import comfy.model_management
import folder_paths
import pytest
import torch
from posttrain.rewards.base.reward import Prompt
from posttrain.trainers.engine.update import Optimizer, update
from posttrain.trainers.policy import Recipe, create_policy, lora_state_dict, open_policy, policy_as_model
from posttrain.trainers.policy.from_lora import read_lora
from posttrain.trainers.prompts import PromptSet

import nodes

diffusers = pytest.importorskip("diffusers")


class Size:
    size = 1


@torch.no_grad()
def random_weights(network: torch.nn.Module) -> torch.nn.Module:
    values = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))  # a prime number: no two rows are alike
    for name, parameter in network.named_parameters():
        flat = values.repeat(-(-parameter.numel() // len(values)))[: parameter.numel()].view(parameter.shape)
        fan = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.copy_(
            1 + 0.1 * flat if parameter.ndim == 1 and "norm" in name and name.endswith("weight") else flat * fan**-0.5
        )
    return network


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Equal for equal bits: what no file has filled may be NaN."""
    return tensor.contiguous().view(torch.uint8)


def trains_like_others(model, channels: int, width: int, pooled: int) -> None:
    """Off it is what the host answers, an update moves it, its LoRA is read back; the model stays as it was."""
    random = torch.Generator().manual_seed(1)
    cond = [[torch.randn(1, 6, width, generator=random), {"pooled_output": torch.randn(1, pooled, generator=random)}]]
    prompts, x, sigma = (
        PromptSet((Prompt("one"),), (cond,), None),
        torch.randn(1, channels, 8, 8, generator=random),
        torch.tensor([0.7]),
    )
    policy = create_policy(model, Recipe(rank=2, targets="attention"))
    before = {key: value.clone() for key, value in model.model.state_dict().items()}

    def ask(which, bank=None):
        with open_policy(which) as net, torch.no_grad():
            return net.denoise(x, sigma, prompts, [0], 1.0, None if bank is None else net.to_device(bank))

    def loss(net, bank, micro):
        return net.denoise(x, sigma, prompts, [0], 1.0, bank).square().mean(), {}

    trained = update(policy, [[Size]], loss, Optimizer(learning_rate=1e-2))
    assert len(policy.bank) >= 8 and trained.metrics["updates"] == 1
    ends = [key for key in policy.bank if key.endswith("lora_B")]
    still = [key for key in ends if torch.equal(trained.bank[key], policy.bank[key])]
    assert len(still) < 0.25 * len(ends), still  # of a last block's text nothing comes out
    assert torch.equal(ask(policy), ask(trained)), "off it is the model"
    on = ask(trained, trained.bank)
    assert (on - ask(policy)).abs().max() > 1e-3
    torch.testing.assert_close(ask(create_policy(policy_as_model(trained), Recipe(rank=2))), on, rtol=1e-2, atol=1e-2)
    again = read_lora(model, lora_state_dict(trained))
    assert all(torch.equal(again.bank[key], trained.bank[key]) for key in trained.bank)
    comfy.model_management.unload_all_models()  # takes the LoRA off again
    after = model.model.state_dict()
    changed = [key for key in before if not torch.equal(bits(before[key]), bits(after[key]))]
    assert not changed, changed


def in_folder(kind: str, folder, monkeypatch) -> None:
    names = dict(folder_paths.folder_names_and_paths)
    names[kind] = ([str(folder)], folder_paths.supported_pt_extensions)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", names)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})


def test_load_diffusion_model_reads_a_transformer_of_diffusers(tmp_path, monkeypatch):
    network = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=128,
        pooled_projection_dim=64,
        out_channels=16,
        pos_embed_max_size=16,
    )
    random_weights(network).save_pretrained(tmp_path)
    in_folder("diffusion_models", tmp_path, monkeypatch)
    with torch.inference_mode():  # as a node runs
        (model,) = nodes.UNETLoader().load_unet("diffusion_pytorch_model.safetensors", "default")
    assert type(model.model).__name__ == "SD3"
    trains_like_others(model, 16, 32, 64)


def test_diffusers_loader_reads_a_unet_of_diffusers(tmp_path, monkeypatch):
    """The host knows UNets by their published sizes; the smallest is that of SD-XS."""
    with torch.device("meta"):
        network = diffusers.UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=(320, 640, 1280),
            layers_per_block=1,
            cross_attention_dim=768,
            attention_head_dim=(5, 10, 20),
            mid_block_type=None,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )
    network = random_weights(network.to_empty(device="cpu").half())
    network.save_pretrained(tmp_path / "model" / "unet")
    (tmp_path / "model" / "model_index.json").write_text("{}")
    in_folder("diffusers", tmp_path, monkeypatch)
    assert nodes.DiffusersLoader.INPUT_TYPES()["required"]["model_path"][0] == ["model"]
    with torch.inference_mode():
        model, _, _ = nodes.DiffusersLoader().load_checkpoint("model", output_vae=False, output_clip=False)
    assert model.model.model_config.unet_config["context_dim"] == 768
    trains_like_others(model, 4, 768, 64)
