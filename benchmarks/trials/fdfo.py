"""develop.py trial: FDFO (arXiv 2603.12893) on the demo world, beside trainers of the pack at as many evaluations of the network.

Two images of a prompt begin alike and part by a little fresh noise at each step. Of their latents x, x' and rewards r, r':

    d = (x - x') / 2,   g = (r - r') / 2,   n = d / (mean_d d^2 + 1e-6),   v* = v_rollout - n
    q = exp(mean_d n^2 - mean_d (v - v*)^2),   loss = mean_i (-g_i q_i + |g_i| / (2 clip) (q_i - 1)^2)

at every state of either's way. The paper takes g as the reward gives it; here it is divided by its root mean square over the
iteration's pairs, so that a reward's scale is no learning rate. Pairs of equal rewards teach nothing and are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tools import pack

LEAST = 1e-6
SIZE = (3, 24, 24)  # of the demo's latents
HELD_OUT = {"steps": 15, "images_per_prompt": 17, "prompts_per_iteration": 18, "transition": "deterministic", "seed": 10_000}
SEED = 99  # of the pairs' noise, beside the iteration's number


def half_difference(values: Tensor) -> Tensor:
    """[2P, ...], pairs side by side -> [2P, ...]: half of what each has more than its twin."""
    first, second = values.unflatten(0, (-1, 2)).unbind(1)
    return torch.stack([first - second, second - first], 1).flatten(0, 1) / 2


def direction(ends: Tensor) -> Tensor:
    """n of finished latents [2P, ...]."""
    d = half_difference(ends)
    return d / (d.square().flatten(1).mean(1).reshape(-1, *[1] * (d.ndim - 1)) + LEAST)


def fdfo_loss(v: Tensor, v_rollout: Tensor, n: Tensor, g: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """(scalar with gradient, q [B]). v with gradient, v_rollout, n: [B, ...]; g: [B]."""
    q = (n.square() - (v - v_rollout + n).square()).flatten(1).mean(1).exp()
    return (g.abs() / (2 * clip) * (q - 1).square() - g * q).mean(), q.detach()


def churned(x: Tensor, sigma: float | Tensor, churn: float, noise: Tensor) -> Tensor:
    """A state at a noise level that leads to ``sigma`` once a part of its noise is fresh -> that state."""
    return (x + sigma * ((1 + churn) ** 2 - 1) ** 0.5 * noise) / (1 + churn * sigma)


def stepped(x: Tensor, v: Tensor, sigma: Tensor, after: Tensor, churn: float, noise: Tensor) -> Tensor:
    """Euler's step beyond ``after``, and back to it by fresh noise."""
    beyond = after / (1 + churn - churn * after)
    return churned(x + (beyond - sigma) * v, beyond, churn, noise)


@dataclass(frozen=True)
class World:
    """The demo's flow model as a policy, its prompts, encoded, and its VAE."""

    policy: Any
    prompts: Any
    held_out: Any
    vae: Any

    def scores(self, images: Tensor, index: Tensor, kind: str, prompts: Any) -> Any:
        asked = [prompts.prompts[int(i)] for i in index]
        return pack.module("rewards.base.reward").score(pack.module("toy.verifier").ToyVerifier(kind), images, asked, index)


@dataclass(frozen=True)
class State:
    """Some images of a rollout, before one of its steps."""

    rows: Tensor
    step: int

    @property
    def size(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Ways:
    """How pairs came to their ends. states, velocities: of each step [B, ...]."""

    sigmas: Tensor
    states: list[Tensor]
    velocities: list[Tensor]
    ends: Tensor
    evaluations: int


def world() -> World:
    torch.set_num_threads(1)
    models = pack.module("toy.models", host=True)
    policies, prompt_set = pack.module("trainers.policy"), pack.module("toy.prompts").prompt_set
    clip, encode = models.load_clip(), pack.module("nodes.prompts").encode_prompts
    policy = policies.create_policy(
        models.load_model("flow"), policies.Recipe(rank=32, alpha=32.0, targets="all linear layers")
    )
    return World(policy, *(encode(prompt_set(held_out=each), clip, "") for each in (False, True)), models.load_vae())


def sampling(**own: Any) -> Any:
    usual = {"width": 24, "height": 24, "batch_size": 64, "prompts_per_iteration": 16, "images_per_prompt": 16, "steps": 8}
    return pack.module("trainers.sampling.settings").Sampling(**usual | own)


def right(here: World, policy: Any) -> float:
    """The share of 306 held-out pictures that the exact checker finds right."""
    drawn = pack.module("trainers.sampling.rollout").rollout(
        policy, here.held_out, here.vae, sampling(**HELD_OUT), weights="trained"
    )
    return float(here.scores(drawn.images, drawn.index, "strict", here.held_out).values.mean())


def ways(here: World, net: Any, policy: Any, settings: Any, index: Tensor, churn: float, random: torch.Generator) -> Ways:
    def noise(count: int) -> Tensor:
        return torch.randn(count, *SIZE, generator=random)

    sigmas, bank = net.sigmas(settings.scheduler, settings.steps), net.to_device(policy.bank)
    x = churned(noise(len(index) // 2).repeat_interleave(2, 0), 1.0, churn, noise(len(index)))
    states, velocities = [], []
    for k in range(settings.steps):
        parts = torch.arange(len(x)).split(settings.batch_size)
        v = torch.cat([velocity(here, net, bank, x[rows], index[rows], sigmas, k) for rows in parts])
        states.append(x)
        velocities.append(v)
        x = stepped(x, v, sigmas[k], sigmas[k + 1], churn if k + 1 < settings.steps else 0.0, noise(len(x)))
    return Ways(sigmas, states, velocities, x, net.evaluations)


def velocity(here: World, net: Any, bank: Any, x: Tensor, index: Tensor, sigmas: Tensor, k: int) -> Tensor:
    x0 = net.denoise(x, sigmas[k].expand(len(x)), here.prompts, index, 1.0, bank, schedule=sigmas)
    return (x - x0) / sigmas[k]


@torch.inference_mode(False)
def fdfo_step(here: World, policy: Any, settings: Any, iteration: int, optimizer: Any, churn: float, clip: float) -> Any:
    """(the new policy, evaluations)"""
    random = pack.module("trainers.noise.streams").generator(settings.seed, iteration, SEED)
    index = pack.module("trainers.sampling.draws").prepared_samples(here.prompts, settings, iteration).index
    with pack.module("trainers.policy").open_policy(policy) as net, torch.no_grad():
        found = ways(here, net, policy, settings, index, churn, random)
    images = pack.module("trainers.policy.latents").to_images(policy.model, here.vae, found.ends)
    g = half_difference(here.scores(images, index, "mixed", here.prompts).values.float())
    g, n = g / g.square().mean().sqrt().clamp_min(LEAST), direction(found.ends)
    pairs = g[::2].nonzero().flatten()
    if not len(pairs):
        return policy, found.evaluations
    parts = pairs[torch.randperm(len(pairs), generator=random)].chunk(optimizer.updates)
    rows = [torch.stack([2 * part, 2 * part + 1], 1).flatten().split(settings.batch_size) for part in parts]
    micros = [[State(some, k) for some in each for k in range(settings.steps)] for each in rows]

    def evaluate(net: Any, bank: Any, micro: State) -> Any:
        v = velocity(here, net, bank, found.states[micro.step][micro.rows], index[micro.rows], found.sigmas, micro.step)
        loss, q = fdfo_loss(v, found.velocities[micro.step][micro.rows], n[micro.rows], g[micro.rows], clip)
        return loss, {"ratio_mean": q.mean()}

    new = pack.module("trainers.engine.update").update(policy, micros, evaluate, optimizer)
    return new, found.evaluations + new.metrics["update_evaluations"]


def trainer_step(here: World, policy: Any, settings: Any, iteration: int, trainer: Any) -> Any:
    """The same with a trainer of the pack."""
    drawn = pack.module("trainers.sampling.rollout").rollout(policy, here.prompts, here.vae, settings, iteration)
    scores = here.scores(drawn.images, drawn.index, "mixed", here.prompts)
    feedback = pack.module("trainers.feedback.advantages").advantages(scores)
    new = pack.module("trainers.methods").train_step(policy, drawn, feedback, trainer)
    return new, drawn.evaluations + new.metrics["update_evaluations"]


def step_of(here: World, chosen: argparse.Namespace) -> Callable[[Any, int], Any]:
    """The train step of the chosen method, the pack's as in docs/proof.md; its rate falls to a tenth over FDFO's evaluations."""
    methods, Optimizer = pack.module("trainers.methods"), pack.module("trainers.engine.update").Optimizer
    optimizer = Optimizer(learning_rate=chosen.rate, updates=2, average=0.9)
    if chosen.method == "fdfo":
        own = sampling(steps=chosen.steps, prompts_per_iteration=chosen.prompts, images_per_prompt=chosen.images)
        each = 2 * chosen.steps * chosen.prompts * chosen.images
        optimizer = replace(optimizer, decay=int(2 * chosen.evaluations / each))
        return lambda policy, k: fdfo_step(here, policy, own, k, optimizer, chosen.churn, chosen.clip)
    if chosen.method == "flow_grpo":
        kind = pack.module("trainers.flow_grpo").FlowGRPO(clip_range=2e-4)
        own = sampling(noisy_steps=3, noise_level=0.7, window="random each iteration")
        optimizer = replace(optimizer, learning_rate=5e-4, decay=280)
    else:
        kind, own = pack.module("trainers.nft").NFT(), sampling(prompts_per_iteration=32, transition="deterministic")
        optimizer = replace(optimizer, learning_rate=4e-4, decay=100)
    return lambda policy, k: trainer_step(here, policy, own, k, methods.Trainer(kind, optimizer))


def course(here: World, step: Callable[[Any, int], Any], chosen: argparse.Namespace) -> Iterator[str]:
    policy, iteration, total, seconds, due = here.policy, 0, 0.0, 0.0, 0.0
    while True:
        over = total >= chosen.evaluations or seconds >= chosen.seconds
        if total >= due or over:
            yield f"{iteration} iterations, {total / 1e6:.3f} M evaluations, {seconds:.0f} s: {right(here, policy):.1%} right"
            due += chosen.every
        if over:
            return
        began = time.process_time()
        policy, evaluations = step(policy, iteration)
        policy, iteration = replace(policy, iteration=iteration + 1), iteration + 1
        seconds, total = seconds + time.process_time() - began, total + evaluations


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="develop.py trial", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("method", nargs="?", default="fdfo", choices=("fdfo", "flow_grpo", "nft"))
    for name, kind, value, words in (
        ("steps", int, 8, "FDFO's sampling steps (40 in the paper)"), ("churn", float, 0.02, "its fresh noise (0.0025 there)"),
        ("clip", float, 0.03, "its clip"), ("rate", float, 1e-3, "its learning rate"),
        ("prompts", int, 16, "its prompts in an iteration"), ("images", int, 16, "and its images of each"),
        ("evaluations", float, 8e4, "of the network, after which it ends"),
        ("every", float, 2e4, "evaluations between two measurements"),
        ("seconds", float, 600, "of one core, after which it ends"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=value, help=f"{words} (default: {value:g})")
    chosen, here = parser.parse_args(arguments), world()
    for line in course(here, step_of(here, chosen), chosen):
        print(f"{chosen.method}: {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
