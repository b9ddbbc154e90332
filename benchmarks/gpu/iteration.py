"""One iteration of a trainer at a model's size: what it takes, beside what was foretold and what its evaluations cost bare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from .models import Size, patcher, prompts, vae
from .start import module

STEPS, RANDOM, GUIDANCE, RANK = 4, 1, 4.0, 16
PROMPTS, IMAGES = 2, 3  # so many prompts, so many images of each; all are one batch
STILL = ("LCM", "ADD", "DiffusionOPD")  # distil, from images made without noise and guidance


class Wave:
    """A smooth reward without a network; it reads the prompt, as SRPO wants it."""

    def __init__(self) -> None:
        self.info = module("rewards.base.reward").RewardInfo("wave", None, None, True, True, "")

    def __call__(self, images: torch.Tensor, texts: Any) -> torch.Tensor:
        signs = torch.tensor([1.0 if "light" in text.text else -0.5 for text in texts], device=images.device)
        return (signs[:, None] * (3 * images).sin().flatten(1)).mean(1)


@dataclass(frozen=True)
class World:
    """A model on the card with what an iteration takes."""

    size: Size
    policy: Any
    vae: Any
    prompts: Any
    low_memory: bool

    def optimizer(self) -> Any:
        return module("trainers.engine.update").Optimizer(low_memory=self.low_memory)

    def sampling(self, kind: type) -> Any:
        made = module("trainers.sampling.settings").Sampling(
            steps=STEPS, noisy_steps=RANDOM, guidance=GUIDANCE, width=self.size.pixels, height=self.size.pixels,
            prompts_per_iteration=PROMPTS, images_per_prompt=IMAGES, batch_size=PROMPTS * IMAGES)  # fmt: skip
        return replace(made, transition="deterministic", guidance=1.0) if kind.__name__ in STILL else made

    def trainer(self, kind: type) -> Any:
        methods = module("trainers.methods")
        chosen = {"DPOK": {"value_steps": 2}, "SRPO": {"wanted": "light", "unwanted": "dark"}}.get(kind.__name__, {})
        settings = module("tests.unit.trainers.usual_settings").usual(kind, self.policy, **chosen)
        return methods.Trainer(module("trainers.engine.dry_run").at_one_level(settings), self.optimizer())


def world(size: Size, dtype: torch.dtype, low_memory: bool) -> World:
    import comfy.model_management as management

    device, policies = management.get_torch_device(), module("trainers.policy")
    texts = prompts(size, module("rewards.base.reward").Prompt, module("trainers.prompts").PromptSet)
    policy = policies.create_policy(patcher(size, dtype, device), policies.Recipe(rank=RANK, alpha=float(RANK)))
    return World(size, policy, vae(size, dtype, device), texts, low_memory)


@dataclass(frozen=True)
class Row:
    """What an iteration took. foretold, bytes: the most on the card in its train step, as the estimate says and as it was;
    sampling, training: seconds without the decoding; rollout, update: the same in evaluations of the bare network, None for a
    trainer that makes and decodes its images itself; words: what memory did not suffice for, or what went wrong."""

    trainer: str
    foretold: float | None = None
    bytes: float | None = None
    evaluations: int = 0
    sampling: float | None = None
    training: float | None = None
    rollout: float | None = None
    update: float | None = None
    words: str = ""
    failed: bool = False


def measured(here: World, kind: type, forward: float, both: float) -> Row:
    """forward, both: seconds of one evaluation of the bare network, without a backward and with it."""
    methods, metered = module("trainers.methods"), module("trainers.policy.meter").metered
    trainer, sampling = here.trainer(kind), here.sampling(kind)
    foretold = module("nodes.loop.estimate").estimate(here.policy, here.prompts, here.vae, sampling, trainer, Wave())
    step, sampled = train_step(here, trainer, sampling)
    warm = step(here.policy)  # a first step has no moments yet, which take their room from then on
    new, taken = metered(here.policy.model.load_device, lambda: step(warm))
    cost = methods.cost_of(warm, trainer, sampling, len(here.prompts))
    row = Row(kind.__name__, foretold.bytes, taken.bytes, int(new.metrics["update_evaluations"]), sampled, taken.seconds,
              words=module("trainers.policy.room").words_of(new.memory) or foretold.given_up)  # fmt: skip
    if sampled is None:
        return row
    # the plan says how many of the evaluations have a backward; how many there are, the step has counted
    each = (cost.gradient * both + cost.further * forward) / cost.training
    return replace(row, rollout=sampled / (cost.sampling * forward), update=taken.seconds / (row.evaluations * each))


def train_step(here: World, trainer: Any, sampling: Any) -> tuple[Callable[[Any], Any], float | None]:
    """(policy -> the policy after a train step, seconds that sampling its images took; None where it makes them itself)."""
    methods, metered = module("trainers.methods"), module("trainers.policy.meter").metered
    if methods.goes_through_reward(trainer):
        return lambda policy: methods.backprop_step(policy, here.prompts, here.vae, Wave(), sampling, trainer)[0], None
    rollout, to_images = module("trainers.sampling.rollout").rollout, module("trainers.policy.latents").to_images
    device = here.policy.model.load_device
    made, sampled = metered(device, lambda: rollout(here.policy, here.prompts, here.vae, sampling, 0))
    _, decoded = metered(device, lambda: to_images(here.policy.model, here.vae, made.latents))
    feedback = module("nodes.loop.estimate").invented(made, trainer)
    seconds = max(0.0, sampled.seconds - decoded.seconds)
    return lambda policy: methods.train_step(policy, made, feedback, trainer), seconds
