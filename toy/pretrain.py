"""Makes the tiny models: ``python develop.py pretrain [text|flow|unet|edit|judge] [--minutes N]``.

Trains ComfyUI's own modules on pictures of which a share is captioned wrongly, as on the web. Repeatable: the same
seed and number of steps give the same weights on the same machine type.
"""
from __future__ import annotations

import argparse
import json
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from . import data, edit_data, edits, evaluate, initial, models, world
from .judge import JUDGE_FILE
from .pretrain_judge import JudgePlan, train_judge

JUDGE = JudgePlan()
JUDGED, JUDGED_MEANWHILE = 360, 90  # images that a pass rate is taken over, at the end and on the way


@dataclass(frozen=True)
class Plan:
    """How one network is trained. wrong_share: share of captions that do not fit their picture."""

    kind: str
    steps: int
    batch: int
    matrix_rate: float  # Muon, for the weight matrices inside the network
    other_rate: float  # AdamW, for everything else
    wrong_share: float
    seed: int = 0
    pictures: int = 60_000
    ema: float = 0.999
    decay_from: float = 0.5  # the rate falls linearly to zero over the rest
    warm_up: int = 50


# each network's stages in order; a stage goes on from the weights of the one before
PLANS = {"flow": (Plan("flow", 3800, 128, 0.02, 2e-3, 0.25),
                  Plan("flow", 240, 128, 0.01, 1e-3, 0.15, seed=10, decay_from=0.0)),
         "eps": (Plan("eps", 1000, 64, 0.02, 2e-3, 0.25),),
         "edit": (Plan("edit", 500, 64, 0.01, 1e-3, 0.3, pictures=20_000, decay_from=0.3),)}


def flow_loss(network, x0, tokens, pooled, generator) -> torch.Tensor:
    """Flow matching, E|v(x_t, t) - (noise - x0)|^2 with t = sigmoid(N(1, 1)) (arXiv:2403.03206, section 3.1).

    The mean is 1, not 0, because the layout of a few balls is decided at t > 0.7 and drawing them is easy.
    """
    t = torch.sigmoid(torch.randn(len(x0), generator=generator) + 1.0)
    noise = torch.randn(x0.shape, generator=generator)
    at = t[:, None, None, None]
    out = network.diffusion_model((1 - at) * x0 + at * noise, t * 1000, context=tokens, y=pooled)
    return (out - (noise - x0)).square().mean()


def eps_loss(network, x0, tokens, pooled, generator) -> torch.Tensor:
    """Noise prediction; the plain loss hardly trains the noisy steps that decide layout and colour: see ``_weight``."""
    sampling = network.model_sampling
    # the power 0.75 draws more of the noisy steps
    step = (torch.rand(len(x0), generator=generator) ** 0.75 * len(sampling.sigmas)).long()
    sigma = sampling.sigmas[step]
    noise = torch.randn(x0.shape, generator=generator)
    at = sigma[:, None, None, None]
    x = x0 + at * noise
    out = network.diffusion_model(sampling.calculate_input(sigma, x), step.float(), context=tokens)
    return ((out - noise).square().mean((1, 2, 3)) * _weight(sigma)).mean()


def _weight(sigma: torch.Tensor) -> torch.Tensor:
    """sigma^2 turns an error of the noise into one of x0; below 0.5 the plain loss is kept, above 8 it is capped."""
    return sigma.clamp(0.5, 8) ** 2 / 4


def edit_loss(network, x0, before, tokens, pooled, generator) -> torch.Tensor:
    """Flow matching as in ``flow_loss``, the picture before beside the noise; t = sigmoid(N(0.5, 1)), for the layout is given."""
    t = torch.sigmoid(torch.randn(len(x0), generator=generator) + 0.5)
    noise = torch.randn(x0.shape, generator=generator)
    at = t[:, None, None, None]
    out = network.diffusion_model(torch.cat([(1 - at) * x0 + at * noise, before], 1), t * 1000, context=tokens, y=pooled)
    return (out - (noise - x0)).square().mean()


LOSSES = {"flow": flow_loss, "eps": eps_loss, "edit": edit_loss}


def lessons(plan: Plan, clip, generator):
    """Endless batches of what the network learns from, as its loss takes them."""
    if plan.kind == "edit":
        captions = data.encode(clip, [edits.instruction(*pair) for pair in edits.PAIRS])
        return edit_data.batches(edit_data.make_lessons(plan.pictures, plan.wrong_share, plan.seed + 2), captions, plan.batch,
                                 generator)
    captions = data.encode(clip, [world.caption(s) for s in world.split(held_out=False)])
    return data.batches(data.make_pictures(plan.pictures, plan.wrong_share, plan.seed + 2), captions, plan.batch, generator)


class Descent:
    """Muon on the weight matrices inside the network, AdamW on the rest; one learning-rate schedule for both."""

    def __init__(self, network: torch.nn.Module, plan: Plan) -> None:
        inner = ("joint_blocks", "input_blocks", "middle_block", "output_blocks")
        named = list(network.named_parameters())
        matrices = [p for n, p in named
                    if p.ndim == 2 and n.startswith(inner) and "adaLN" not in n and "emb_layers" not in n]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        self.parts = [(torch.optim.Muon(matrices, weight_decay=0.01), plan.matrix_rate),
                      (torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98)), plan.other_rate)]
        self.parameters, self.plan = [p for _, p in named], plan

    def step(self, loss: torch.Tensor, done: float, count: int) -> None:
        """One update; ``done`` in [0, 1] is the share of the run that is over."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        falling = min(1.0, (1 - done) / (1 - self.plan.decay_from))
        for optimizer, rate in self.parts:
            optimizer.param_groups[0]["lr"] = rate * falling * min(1.0, (count + 1) / self.plan.warm_up)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def train(plan: Plan, start: Path | None, out: Path, report_every: float, minutes: float = math.inf,
          images: int = JUDGED) -> dict:
    """Train one network for ``plan.steps`` or ``minutes``, whichever ends first, and write it to ``out``.

    start: weights to go on from, or None; images: how many its pass rate is taken over. The learning rate falls to zero
    at the end, whichever end that is.
    """
    torch.manual_seed(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed + 1)
    clip = data.text_encoder()
    network = _first_network(plan) if start is None else models.load_model(plan.kind, start).model
    network.diffusion_model.requires_grad_(True)
    stream = lessons(plan, clip, generator)
    optimizer = Descent(network.diffusion_model, plan)
    average = {k: v.detach().clone() for k, v in network.diffusion_model.state_dict().items()}
    began, spoke, spent, losses = time.monotonic(), 0.0, 0.0, []
    while (done := max(len(losses) / plan.steps, spent / minutes)) < 1:
        loss = LOSSES[plan.kind](network, *next(stream), generator)
        optimizer.step(loss, done, count := len(losses))
        losses.append(loss.item())
        keep = min(plan.ema, (1 + count) / (10 + count))
        for k, v in network.diffusion_model.state_dict().items():
            average[k].lerp_(v, 1 - keep)
        spent = (time.monotonic() - began) / 60
        if spent - spoke > report_every:
            spoke = spent
            _checkpoint(plan, clip, average, out, losses, spent, min(JUDGED_MEANWHILE, images))
    return _checkpoint(plan, clip, average, out, losses, spent, images)


def _first_network(plan: Plan):
    if plan.kind == "edit":
        return models.editor_from_flow()
    network = models.build_network(plan.kind)
    initial.initialise(network.diffusion_model, plan.seed)
    return network


def run_stages(plans: tuple[Plan, ...], start: Path | None, out: Path, report_every: float, minutes: float = math.inf,
               images: int = JUDGED) -> dict:
    """Train the stages one after another; ``minutes`` is shared out by their steps. Returns the last record."""
    total, before = sum(plan.steps for plan in plans), {}
    if start is not None:
        before = models.training_record(start)
    for plan in plans:
        record = train(plan, start, out, report_every, minutes * plan.steps / total, images)
        models.save(out, load_file(str(out)), record := record | {"before": before})
        start, before = out, record
    return record


def _checkpoint(plan: Plan, clip, average: dict, out: Path, losses: list[float], spent: float, images: int) -> dict:
    record = {**asdict(plan), "steps_done": len(losses), "minutes": round(spent, 1)}
    models.save(out, average, record)
    model = models.load_model(plan.kind, out)
    rate = evaluate.edit_pass_rate if plan.kind == "edit" else evaluate.pass_rate
    record["held_out"] = rate(model, clip, held_out=True, images=images)
    record["train"] = rate(model, clip, held_out=False, images=images)
    models.save(out, average, record)
    recent = losses[-200:]
    logging.warning("%s %5.1f min, step %d, loss %.4f, held-out %s, train %s", plan.kind, spent, len(losses),
                    math.fsum(recent) / len(recent), record["held_out"], record["train"])
    return record


def main(argv: list[str]) -> int:
    """``pretrain [text|flow|unet|edit|judge] [--minutes N]``: all of them where none is named.

    --steps, --wrong or --seed make it one stage with that change, for experiments; --minutes and --wrong are not the judge's.
    """
    parser = argparse.ArgumentParser(prog="pretrain", description="Make the tiny models of the demo world.")
    parser.add_argument("model", nargs="?", choices=("text", *models.NAMES, "judge"))
    parser.add_argument("--minutes", type=float, default=math.inf, help="at most this long for each network")
    parser.add_argument("--steps", type=int, help="training steps of each network")
    parser.add_argument("--wrong", type=float, help="share of wrong captions, 0 to 1")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--from", dest="start", type=Path, help="go on from these weights")
    parser.add_argument("--out", type=Path, default=models.WEIGHTS, help="folder to write to (default: the shipped files')")
    parser.add_argument("--report", type=float, default=4.0, help="minutes between checkpoints")
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    if chosen.model in (None, "text"):
        chosen.out.mkdir(parents=True, exist_ok=True)
        initial.make_text_encoder(chosen.out / models.TEXT_FILE.name)
    for kind in [kind for name, kind in models.NAMES.items() if chosen.model in (None, name)]:
        changes = {"steps": chosen.steps, "wrong_share": chosen.wrong, "seed": chosen.seed}
        changes = {name: value for name, value in changes.items() if value is not None}
        plans = tuple(replace(plan, **changes) for plan in PLANS[kind][: 1 if changes else None])
        record = run_stages(plans, chosen.start, chosen.out / models.FILES[kind].name, chosen.report, chosen.minutes)
        print(json.dumps(record))
    if chosen.model in (None, "judge"):
        changes = {name: value for name, value in {"steps": chosen.steps, "seed": chosen.seed}.items() if value is not None}
        print(json.dumps(train_judge(replace(JUDGE, **changes), chosen.out / JUDGE_FILE.name)))
    return 0
