"""A network as people train it, small: SD1.5's UNet in ComfyUI, 64 channels wide, random weights, 16 x 16 latents."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tools import pack

TEXT, TOKENS, LATENT = 64, 77, 16
SHAPE = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2], "transformer_depth": [1, 1, 0], "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1, "context_dim": TEXT, "use_temporal_attention": False, "num_heads": 8, "num_head_channels": -1,
    "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": False, "adm_in_channels": None,
}  # fmt: skip
# the layers that most scripts train, and the pack's usual choice
ATTENTION = r"attn[12]\.to_(q|k|v|out\.0)$"
LAYERS = {"attention": ATTENTION, "attention and feed-forward": ""}


def patcher(dtype: torch.dtype = torch.float32) -> Any:
    """A MODEL of the host, the same weights each time."""
    pack.module("trainers.policy", host=True)
    import comfy.model_patcher
    import comfy.supported_models

    torch.set_num_threads(1)
    config = comfy.supported_models.SD15(dict(SHAPE))
    config.unet_config["dtype"] = dtype
    config.set_inference_dtype(dtype, None)
    device = torch.device("cpu")
    model = config.get_model({}, device=device)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.diffusion_model.parameters():
            scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=random) * scale)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def policy(rank: int = 16, layers: str = "attention and feed-forward", dtype: torch.dtype = torch.float32) -> Any:
    """With a LoRA that is not at its start."""
    policies = pack.module("trainers.policy", host=True)
    made = policies.create_policy(patcher(dtype), policies.Recipe(rank=rank, alpha=2.0 * rank, pattern=LAYERS[layers]))
    random = torch.Generator().manual_seed(1)
    for name, weight in made.bank.items():
        if name.endswith("lora_B"):
            weight.copy_(torch.randn(weight.shape, generator=random) * 0.02)
    return made


def prompts(count: int = 8, tokens: Sequence[int] = (TOKENS,)) -> Any:
    """Encoded at random. tokens: of the prompts in turn."""
    prompt, random = pack.module("rewards.base.reward").Prompt, torch.Generator().manual_seed(2)

    def encoded(length: int = TOKENS) -> list:
        return [[torch.randn(1, length, TEXT, generator=random), {"pooled_output": torch.zeros(1, TEXT)}]]

    return pack.module("trainers.prompts").PromptSet(
        tuple(prompt(f"{k}") for k in range(count)), tuple(encoded(tokens[k % len(tokens)]) for k in range(count)), encoded()
    )


def texts(count: int) -> torch.Tensor:
    """[N, T, D], the encodings of so many prompts."""
    return torch.cat([each[0][0] for each in prompts(count).positive])


class Asked:
    """One question to an opened policy, with and without a gradient: what benchmarks repeat."""

    def __init__(self, net: Any, batch: int, side: int = LATENT, guidance: float = 1.0):
        random = torch.Generator().manual_seed(3)
        self.net, self.guidance = net, guidance
        self.x, self.sigma = torch.randn(batch, 4, side, side, generator=random), torch.full((batch,), 5.0)
        self.prompts, self.index = prompts(), [k % 8 for k in range(batch)]

    def forward(self, bank: Any) -> Callable[[], object]:
        @torch.no_grad()
        def run() -> None:
            self._answer(bank)

        return run

    def train(self, bank: Any, blocks: bool | int = False) -> Callable[[], object]:
        def run() -> None:
            self.net.recomputing_blocks(blocks)
            self.net.gradients(lambda: (self._answer(bank).square().mean(), {}), list(bank.values()))

        return run

    def _answer(self, bank: Any) -> torch.Tensor:
        return self.net.denoise(self.x, self.sigma, self.prompts, self.index, self.guidance, bank)


def most_kept(network: torch.nn.Module, run: Callable[[], object]) -> int:
    """The most bytes that autograd keeps at any time of ``run``, the network's own weights left out."""
    with pack.module("tests.unit.trainers.kept_for_backward").Kept(list(network.parameters())) as counted:
        run()
    return counted.most


def ratios(first: Callable, others: dict[str, Callable], repeats: int = 9) -> dict[str, tuple[float, float]]:
    """Name -> (median ratio to the first, seconds of processor time of its quickest turn); the first is "".

    They take turns, so that a busy machine slows all of them.
    """
    works = {"": first, **others}
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            started = time.process_time()
            work()
            times[name].append(time.process_time() - started)
    return {name: (statistics.median(b / a for a, b in zip(times[""], taken)), min(taken)) for name, taken in times.items()}
