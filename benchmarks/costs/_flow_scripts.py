"""Rollout and update of other packages on diffusers' SD3, with their own steps out of checkouts that variables name.

FLOW_GRPO: a folder with flow_grpo, FLOW_FACTORY: one with Flow-Factory. Their programs train with accelerate on cards; what they do
for each batch and step is done here in its order, around their steps.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from ._network import TEXT, TOKENS

GRPO, STEP_FILE = "FLOW_GRPO", "flow_grpo/diffusers_patch/sd3_sde_with_logprob.py"
FACTORY, SOURCES = "FLOW_FACTORY", "src/flow_factory"
BATCH, BATCHES, STEPS, SIDE, NOISE, SHIFT = 8, 2, 8, 32, 0.7, 3.0
RANK, DEPTH, HEADS = 32, 4, 4  # its hidden size is 64 for each head and block
ALL_OF_ATTENTION = [f"attn.{name}" for name in (
    "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out", "to_k", "to_out.0", "to_q", "to_v")]  # fmt: skip
CLIP, MOST, RATE = 1e-4, 5.0, 3e-4


class Steps(Protocol):
    """Of a sampler. timesteps: where each begins."""

    timesteps: torch.Tensor

    def drawn(self, answer: torch.Tensor, step: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """-> the next state, and its log-likelihoods, None where the step is not random."""

    def chance(self, answer: torch.Tensor, step: int, x: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """-> log-likelihoods of a state that was drawn before."""


def checkout(variable: str, place: str) -> Path | None:
    """What is there in the checkout that a variable names; None where it names none."""
    if not (folder := os.environ.get(variable)):
        return None
    if not (found := Path(folder) / place).exists():
        raise SystemExit(f"{variable}: there is no {found}; name the folder of a checkout")
    return found


def peers() -> Iterator[tuple[str, Steps]]:
    """Those that variables name."""
    if file := checkout(GRPO, STEP_FILE):
        yield "flow_grpo", GrpoSteps(file)
    if folder := checkout(FACTORY, SOURCES):
        yield "Flow-Factory", FactorySteps(folder)


class GrpoSteps:
    """By flow_grpo's sde_step_with_logprob."""

    def __init__(self, file: Path):
        from diffusers import FlowMatchEulerDiscreteScheduler

        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._step = module.sde_step_with_logprob
        self._schedule = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        self._schedule.set_timesteps(STEPS)
        self.timesteps = self._schedule.timesteps

    def drawn(self, answer, step, x):
        t = self.timesteps[step].unsqueeze(0)
        return self._step(self._schedule, answer.float(), t, x.float(), noise_level=NOISE)[:2]

    def chance(self, answer, step, x, after):
        t = self.timesteps[step].expand(len(x))
        return self._step(self._schedule, answer.float(), t, x.float(), prev_sample=after.float(), noise_level=NOISE)[1]


class FactorySteps:
    """By Flow-Factory's scheduler."""

    def __init__(self, folder: Path):
        sys.path.append(str(folder.parent))
        from flow_factory.scheduler import FlowMatchEulerDiscreteSDEScheduler

        self._schedule = FlowMatchEulerDiscreteSDEScheduler(noise_level=NOISE, shift=SHIFT)
        self._schedule.set_timesteps(STEPS)
        self.timesteps = self._schedule.timesteps

    def _next(self, step: int) -> torch.Tensor:
        return self.timesteps[step + 1] if step + 1 < STEPS else torch.tensor(0.0)

    def drawn(self, answer, step, x):
        t = self.timesteps[step]
        noise = self._schedule.get_noise_level_for_timestep(t)
        made = self._schedule.step(answer, t, x, timestep_next=self._next(step), noise_level=noise, compute_log_prob=noise > 0,
                                   return_kwargs=["next_latents", "log_prob", "noise_pred"])  # fmt: skip
        return made.next_latents, made.log_prob

    def chance(self, answer, step, x, after):
        t, t_next = (one.expand(len(x)) for one in (self.timesteps[step], self._next(step)))
        return self._schedule.step(answer, t, x, timestep_next=t_next, next_latents=after, noise_level=NOISE,
                                   return_kwargs=["log_prob", "dt"]).log_prob  # fmt: skip


def network() -> Any:
    """Diffusers' SD3 in the shape of that of ``peers.our_flow_grpo``, random, with peft's LoRA where flow_grpo has it."""
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
    """The two halves of an epoch: ``roll`` and ``update``, without guidance and without a KL term."""

    def __init__(self, steps: Steps, transformer: Any):
        self.steps, self.transformer = steps, transformer
        self.weights = [weight for weight in transformer.parameters() if weight.requires_grad]
        self.adam = torch.optim.AdamW(self.weights, lr=RATE, weight_decay=1e-4)
        random = torch.Generator().manual_seed(2)
        self.texts = torch.randn(BATCH * BATCHES, TOKENS, TEXT, generator=random)
        self.pooled = torch.randn(BATCH * BATCHES, TEXT, generator=random)
        self.drawn: list[tuple[list[torch.Tensor], list[torch.Tensor | None]]] = []

    def predicted(self, x: torch.Tensor, step: int, rows: slice) -> torch.Tensor:
        return self.transformer(hidden_states=x, timestep=self.steps.timesteps[step].expand(BATCH),
                                encoder_hidden_states=self.texts[rows], pooled_projections=self.pooled[rows],
                                return_dict=False)[0]  # fmt: skip

    @torch.no_grad()
    def roll(self) -> None:
        self.transformer.eval()
        self.drawn = []
        for rows in batches():
            states, chances = [torch.randn(BATCH, 16, SIDE, SIDE)], []
            for step in range(STEPS):
                x, chance = self.steps.drawn(self.predicted(states[-1], step, rows), step, states[-1])
                states.append(x)
                chances.append(chance)
            self.drawn.append((states, chances))

    def update(self) -> None:
        self.transformer.train()
        for rows, (states, old) in zip(batches(), self.drawn):
            advantages = torch.randn(BATCH).clamp(-MOST, MOST)
            for step in range(STEPS - 1):
                chance = self.steps.chance(self.predicted(states[step], step, rows), step, states[step], states[step + 1])
                ratio = (chance - old[step]).exp()
                loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                (loss / (BATCHES * (STEPS - 1))).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.adam.step()
        self.adam.zero_grad()


def batches() -> list[slice]:
    return [slice(at, at + BATCH) for at in range(0, BATCH * BATCHES, BATCH)]
