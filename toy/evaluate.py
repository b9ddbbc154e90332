"""How often a tiny model draws what its prompt says."""
from __future__ import annotations

import torch

from . import world
from .edit_verifier import EditVerifier
from .edits import prompt_set as edits
from .prompts import prompt_set
from .verifier import ToyVerifier

STEPS = 15
BATCH = 64


@torch.no_grad()
def draw(model: object, clip: object, texts: list[str], seed: int, steps: int = STEPS,
         sources: torch.Tensor | None = None) -> torch.Tensor:
    """sources: [B, H, W, 3], what a model that edits is to change.

    Deterministic Euler samples at guidance 1, scheduler "simple". Returns [B, H, W, 3] in [0, 1]."""
    import comfy.samplers

    network = model.model
    known = {t: clip.encode_from_tokens(clip.tokenize(t), return_pooled=True) for t in set(texts)}
    tokens = torch.cat([known[t][0] for t in texts])
    extra = {"y": torch.cat([known[t][1] for t in texts])} if network.adm_channels else {}
    if sources is not None:
        extra["c_concat"] = sources.movedim(-1, 1) * 2 - 1
    sigmas = comfy.samplers.calculate_sigmas(network.model_sampling, "simple", steps)
    noise = torch.randn((len(texts), 3, world.SIZE, world.SIZE), generator=torch.Generator().manual_seed(seed))
    x = network.model_sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    for now, then in zip(sigmas, sigmas[1:]):
        x0 = network.apply_model(x, now.expand(len(x)), c_crossattn=tokens, **extra)
        x = x + (x - x0) * ((then - now) / now)
    return (x.movedim(1, -1) / 2 + 0.5).clamp(0, 1)


def pass_rate(model: object, clip: object, held_out: bool, images: int, seed: int = 1000) -> dict:
    """Strict and dense mean over ``images`` samples spread evenly over the prompts; standard error of strict."""
    known = prompt_set(held_out).prompts
    asked = [known[i % len(known)] for i in range(images)]
    both = _judged(asked, ToyVerifier(), lambda chunk, seed: draw(model, clip, [p.text for p in chunk], seed), seed)
    kinds = {k: round(both[[p.spec["kind"] == k for p in asked], 0].mean().item(), 3) for k in world.KINDS}
    return {**_summary(both), "strict_by_kind": kinds}


def edit_pass_rate(model: object, clip: object, held_out: bool, images: int, seed: int = 1000) -> dict:
    """The same of a model that edits."""
    known = edits(held_out).prompts
    asked = [known[i % len(known)] for i in range(images)]
    both = _judged(asked, EditVerifier(), lambda chunk, seed: draw(
        model, clip, [p.text for p in chunk], seed, sources=torch.stack([p.source.read() for p in chunk])), seed)
    return _summary(both)


def _judged(asked: list, verifier, drawn, seed: int) -> torch.Tensor:
    parts = [(asked[i : i + BATCH], seed + i) for i in range(0, len(asked), BATCH)]
    return torch.cat([verifier.both(drawn(chunk, start), chunk) for chunk, start in parts])


def _summary(both: torch.Tensor) -> dict:
    images, (strict, dense) = len(both), both.mean(0).tolist()
    return {"strict": round(strict, 3), "dense": round(dense, 3), "images": images,
            "standard_error": round((strict * (1 - strict) / images) ** 0.5, 3)}
