"""flow_grpo's rollout and update on diffusers' SD3, with its own step out of a checkout: FLOW_GRPO names the checkout's folder.

Its script trains with accelerate on cards; what it does for each batch and step is done here in its order, around its function.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ._network import TEXT, TOKENS

FOLDER, FILE = "FLOW_GRPO", "flow_grpo/diffusers_patch/sd3_sde_with_logprob.py"
BATCH, BATCHES, STEPS, SIDE, NOISE = 8, 2, 8, 32, 0.7
RANK, DEPTH, HEADS = 32, 4, 4  # its hidden size is 64 for each head and block
ALL_OF_ATTENTION = [f"attn.{name}" for name in (
    "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out", "to_k", "to_out.0", "to_q", "to_v")]  # fmt: skip
CLIP, MOST, RATE = 1e-4, 5.0, 3e-4


def step_function() -> Callable | None:
    """Its sde_step_with_logprob; None where no checkout is named."""
    file = Path(os.environ.get(FOLDER, "")) / FILE
    if not os.environ.get(FOLDER):
        return None
    spec = importlib.util.spec_from_file_location("sd3_sde_with_logprob", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise SystemExit(f"{FOLDER}: there is no {file}; name the folder of a checkout of flow_grpo")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.sde_step_with_logprob


def network() -> Any:
    """Diffusers' SD3 in the shape of that of ``peers.our_flow_grpo``, random, with peft's LoRA where the script has it."""
    from diffusers import SD3Transformer2DModel
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    bare = SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=16, num_layers=DEPTH, attention_head_dim=64, num_attention_heads=HEADS,
        joint_attention_dim=TEXT, caption_projection_dim=64 * HEADS, pooled_projection_dim=TEXT, out_channels=16,
        pos_embed_max_size=SIDE, qk_norm="rms_norm")  # fmt: skip
    bare.requires_grad_(False)
    return get_peft_model(bare, LoraConfig(r=RANK, lora_alpha=2 * RANK, init_lora_weights="gaussian",
                                           target_modules=ALL_OF_ATTENTION))  # fmt: skip


class Script:
    """Its two halves of an epoch: ``roll`` and ``update``, without guidance and without a KL term."""

    def __init__(self, step: Callable, transformer: Any):
        from diffusers import FlowMatchEulerDiscreteScheduler

        self.step, self.transformer = step, transformer
        self.weights = [weight for weight in transformer.parameters() if weight.requires_grad]
        self.adam = torch.optim.AdamW(self.weights, lr=RATE, weight_decay=1e-4)
        self.schedule = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.schedule.set_timesteps(STEPS)
        random = torch.Generator().manual_seed(2)
        self.texts = torch.randn(BATCH * BATCHES, TOKENS, TEXT, generator=random)
        self.pooled = torch.randn(BATCH * BATCHES, TEXT, generator=random)
        self.drawn: list[tuple[torch.Tensor, torch.Tensor]] = []

    def predicted(self, x: torch.Tensor, t: torch.Tensor, rows: slice) -> torch.Tensor:
        return self.transformer(hidden_states=x, timestep=t, encoder_hidden_states=self.texts[rows],
                                pooled_projections=self.pooled[rows], return_dict=False)[0]  # fmt: skip

    @torch.no_grad()
    def roll(self) -> None:
        self.transformer.eval()
        self.drawn = []
        for rows in batches():
            x = torch.randn(BATCH, 16, SIDE, SIDE)
            states, chances = [x], []
            for t in self.schedule.timesteps:
                answer = self.predicted(x, t.expand(BATCH), rows)
                x, chance, _, _ = self.step(self.schedule, answer.float(), t.unsqueeze(0), x.float(), noise_level=NOISE)
                states.append(x)
                chances.append(chance)
            self.drawn.append((torch.stack(states, 1), torch.stack(chances, 1)))

    def update(self) -> None:
        self.transformer.train()
        for rows, (states, old) in zip(batches(), self.drawn):
            advantages = torch.randn(BATCH).clamp(-MOST, MOST)
            for j in range(STEPS - 1):
                t = self.schedule.timesteps[j].expand(BATCH)
                answer = self.predicted(states[:, j], t, rows)
                _, chance, _, _ = self.step(self.schedule, answer.float(), t, states[:, j].float(),
                                            prev_sample=states[:, j + 1].float(), noise_level=NOISE)  # fmt: skip
                ratio = (chance - old[:, j]).exp()
                loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                (loss / (BATCHES * (STEPS - 1))).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.adam.step()
        self.adam.zero_grad()


def batches() -> list[slice]:
    return [slice(at, at + BATCH) for at in range(0, BATCH * BATCHES, BATCH)]
