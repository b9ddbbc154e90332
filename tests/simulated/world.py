"""What the tests of this folder share: small models on the card or the CPU, and a step of every trainer. The one place where
they import the pack from."""
from __future__ import annotations

import contextlib
import gc
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import small_models
import torch
from posttrain.rewards.base.reward import RewardInfo, score_rollout
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.composite.ensemble import COMBINE, ROLES, SCALES, Ensemble, Member
from posttrain.rewards.composite.formula import FormulaReward
from posttrain.tests.unit.trainers.usual_settings import usual
from posttrain.toy.judge import demo_judge
from posttrain.trainers.add import ADD
from posttrain.trainers.diffusion_opd import DiffusionOPD
from posttrain.trainers.dpok import DPOK
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.feedback.labels import Labels, labels
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.judges.step_reward import noised_states, score_latents, train_step_reward  # noqa: F401 (for the tests)
from posttrain.trainers.judges.step_rollout import Candidates, step_rollout
from posttrain.trainers.lcm import LCM
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, backprop_step, train_step
from posttrain.trainers.policy.latents import to_images  # noqa: F401 (for the tests)
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.spo import SPO
from posttrain.trainers.srpo import SRPO
from simulated_card import device, host

SAMPLING = Sampling(steps=3, width=32, height=32, prompts_per_iteration=2, images_per_prompt=2, batch_size=2, guidance=2.0)
RAW = Optimizer(learning_rate=1e-3, weight_decay=0.0, max_grad_norm=0.0)
FP8 = torch.float8_e4m3fn
TYPES = {"fp32": (torch.float32, None), "fp16": (torch.float16, None), "bf16": (torch.bfloat16, None), "fp8": (FP8, torch.bfloat16)}
# half precision rounds otherwise in another order; a wrong gradient is at right angles to the right one
TOLERANCE = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.2, "fp8": 0.2}
FLOW = ("sd3", "flux", "lumina")
BACKPROP = tuple(kind for kind, method in METHODS.items() if method.needs == OWN_IMAGES)
TRAINERS = tuple(METHODS)


@dataclass(frozen=True)
class Smooth:
    """A smooth reward of no meaning, differentiable, without a network: every pixel counts, in each prompt differently."""

    info = RewardInfo("smooth", None, None, True, True, "")

    def __call__(self, images, prompts):
        seeds = [zlib.crc32(prompt.text.encode()) for prompt in prompts]
        weight = torch.stack([torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return ((3 * images).sin() * weight.to(images.device)).flatten(1).mean(1)


@dataclass(frozen=True)
class World:
    """A model with its VAE and prompts. size, vae_size: bytes of their weights."""

    kind: str = "sd3"
    dtype: str = "fp32"
    card: bool = True
    policy: object = field(init=False)
    vae: object = field(init=False)
    prompts: object = field(init=False)

    def __post_init__(self):
        made = {"policy": small_models.trained_policy(self.kind, *TYPES[self.dtype]), "vae": small_models.small_vae(self.kind),
                "prompts": small_models.prompts_for(self.kind)}
        for name, value in made.items():
            object.__setattr__(self, name, value)
        if self.card:
            host.on_card(self.policy.model)
            host.vae_on_card(self.vae)

    @property
    def sampling(self) -> Sampling:
        return SAMPLING

    @property
    def size(self) -> int:
        return self.policy.model.model_size()

    @property
    def vae_size(self) -> int:
        return self.vae.patcher.model_size()

    def roll(self, **changes):
        return rollout(self.policy, self.prompts, self.vae, replace(self.sampling, **changes), 0)

    def bits(self) -> dict[str, torch.Tensor]:
        """Copies of all that a step must leave as it is: the model's and the VAE's weights, and the bank."""
        parts = {"model": self.policy.model.model.state_dict(), "vae": self.vae.first_stage_model.state_dict(),
                 "bank": self.policy.bank}
        return {f"{part}.{name}": value.detach().cpu().clone() for part, values in parts.items() for name, value in values.items()}


def settings_of(trainer: type, policy):
    """The trainer's settings for these tests: its own, every part of it switched on, at one noise level."""
    chosen = {DPOK: DPOK(value_steps=3), SRPO: SRPO("bright", "dark")}
    settings = chosen[trainer] if trainer in chosen else usual(trainer, policy)
    return replace(settings, levels=1) if hasattr(settings, "levels") else settings


def feedback_for(settings, made):
    """What this trainer learns from, of a rollout."""
    if isinstance(settings, (LCM, ADD, DiffusionOPD)):
        return None
    rules = {Preferences: preferences, Labels: labels}
    rule = rules.get(METHODS[type(settings)].learns_from, advantages)
    return rule(score_rollout(Smooth(), made))


def sampling_for(settings, usual: Sampling = SAMPLING) -> Sampling:
    if isinstance(settings, (LCM, ADD, DiffusionOPD)):
        return replace(usual, transition="deterministic", guidance=1.0)
    return usual


def step(world: World, trainer: type, optimizer: Optimizer = RAW, reward=None):
    """One whole step of this trainer in this world, sampling included: the new policy."""
    settings = settings_of(trainer, world.policy)
    if trainer in BACKPROP:
        return backprop_step(world.policy, world.prompts, world.vae, reward or Smooth(), sampling_for(settings, world.sampling),
                             Trainer(settings, optimizer))[0]
    made, feedback = made_for(world, trainer)
    return train_step(world.policy, made, feedback, Trainer(settings, optimizer))


def made_for(world: World, trainer: type):
    """(rollout, feedback) that this trainer learns from, made by this world's policy where it computes."""
    settings = settings_of(trainer, world.policy)
    if trainer is SPO:
        return step_rollout(world.policy, world.prompts, world.vae, world.sampling, 0, Smooth(), Candidates(threshold=0.0))
    made = rollout(world.policy, world.prompts, world.vae, sampling_for(settings, world.sampling), 0)
    return made, feedback_for(settings, made)


def sampled(model) -> torch.Tensor:
    """What the host's KSampler draws with this MODEL, for which sd3's conditionings are."""
    import comfy.sample

    noise = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():  # as a node runs
        return comfy.sample.sample(model, noise, 3, 2.0, "euler", "simple", small_models.conditioning("sd3", 1),
                                   small_models.conditioning("sd3", 3), torch.zeros_like(noise), seed=3, disable_pbar=True).cpu()


@cache
def on_cpu(kind: str, dtype: str, trainer: type):
    """(rollout, feedback, policy after the step) as the CPU makes them; no rollout for trainers through the reward."""
    world = World(kind, dtype, card=False)
    if trainer in BACKPROP:
        return None, None, step(world, trainer)
    made, feedback = made_for(world, trainer)
    return made, feedback, train_step(world.policy, made, feedback, Trainer(settings_of(trainer, world.policy), RAW))


def gradient(policy) -> torch.Tensor:
    """What the only update so far was made of: AdamW's first moment is a tenth of it."""
    return torch.cat([v.flatten() * 10 for k, v in sorted(policy.optimizer.items()) if k.endswith(".exp_avg")])


@contextlib.contextmanager
def placed(world: World, placement: str, reserve: int = 0):
    """A card on which the model finds room whole, in part ("partly") or not at all ("streamed"); VAE and what else a step
    must have whole (``reserve`` bytes) do fit."""
    least = world.size // 8  # some weights cannot be streamed
    rooms = {"whole": None, "partly": max(least, int(world.size * 0.6 - reserve * 0.1)) + reserve, "streamed": least + reserve}
    with host.memory(rooms[placement]):
        yield


def held_after(run: Callable[[], object]) -> int:
    """Bytes on the card that ``run`` leaves there after all models were unloaded and its answer was let go."""
    host.unload_all()
    before = device.counts()["now"]
    run()
    host.unload_all()
    gc.collect()
    return device.counts()["now"] - before


def composites() -> dict[str, Callable]:
    """Rewards made of others: a network's and a rule's score in each way in which the pack combines them."""
    def pair():
        return (("a", demo_judge()), ("b", Smooth()))

    found = {"sum": lambda: WeightedSum(tuple((reward, 0.5) for _, reward in pair())),
             "formula": lambda: FormulaReward("min(a, 2) + 3 * b", pair())}
    for rule in COMBINE:
        found[f"ensemble, {rule}"] = lambda rule=rule: Ensemble(tuple(Member(r, scale="raw") for _, r in pair()), combine=rule)
    for role in ROLES[1:]:
        found[f"ensemble, {role}"] = lambda role=role: Ensemble(
            (Member(Smooth(), scale="raw"), Member(demo_judge(), role, scale="raw", threshold=-10.0)))
    for scale in SCALES[:2]:  # calibrated ones must be measured first, a rank has no gradient
        found[f"ensemble, {scale}"] = lambda scale=scale: Ensemble(
            (Member(Smooth(), scale=scale), Member(demo_judge(), scale="raw")))
    return found


def trained_step_reward(world: World, made):
    """A judge of half-drawn pictures, trained a little on this rollout."""
    judged = preferences(score_rollout(Smooth(), made))
    return train_step_reward(world.policy, made, lambda path: noised_states(made, judged, path, 2), 2)
