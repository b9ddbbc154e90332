"""The table of methods: settings -> the train step, what it learns from and what it needs of a rollout.

``train_step`` and ``backprop_step`` serve them all; neither knows a method by name. Trainers of other packs are not in it:
they say of themselves what a row says, and are ``adopted``.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..rewards.base.reweighted import reweighted, told
from ..rewards.base.stopwatch import TRAINING, timed
from ..rewards.base.words import brief
from .add import ADD, train_add
from .alignprop import AlignProp, train_alignprop
from .awm import AWM, FOLLOWER, train_awm
from .crd import CRD, RIVAL, train_crd
from .d3po import D3PO, train_d3po
from .ddpo import DDPO, train_ddpo
from .dgpo import DGPO, train_dgpo
from .diffusion_dpo import DiffusionDPO, train_dpo
from .diffusion_opd import DiffusionOPD, opd_cost, train_opd
from .dpok import DPOK, dpok_cost, train_dpok
from .draft import DRaFT, train_draft
from .drtune import DRTune, train_drtune
from .engine.behind import DATA, OLD_POLICY, RATIO, carried_on, check_behind
from .engine.cost import Cost, Train, branches, work_of
from .engine.in_use import numbers_in_use
from .engine.limits import check_limits
from .engine.other_packs import Foreign, foreign
from .engine.renoise import finite_latents
from .engine.reward_walk import Course
from .engine.update import SKIPPED, Optimizer
from .feedback.advantages import Advantages
from .feedback.fits import Feedback, check_fits, teaches
from .feedback.labels import Labels
from .feedback.pairs import Preferences
from .feedback.step_pairs import StepPreferences
from .flow_grpo import FROM_MEANS, FlowGRPO, train_flow_grpo
from .kto import KTO, kto_cost, train_kto
from .lcm import LCM, lcm_cost, train_lcm
from .mapo import MaPO, train_mapo
from .nft import NFT, OLD, train_nft
from .policy.recommended import recommended
from .policy.room import with_room
from .policy.value import Policy
from .policy.weights import outside_inference
from .prompts import PromptSet
from .recipes.settle import settled, variant_of
from .refl import ReFL, refl_cost, train_refl
from .rtdmd import FAKE, RTDMD, rtdmd_cost, train_rtdmd
from .run.steering import KL_WEIGHT, KNOBS, LEARNING_RATE, asked_weights
from .rwr import RWR, train_rwr
from .sampling.recommended import settled_sampling
from .sampling.rollout import Progress, Rollout, for_autograd
from .sampling.settings import Sampling
from .spo import SPO, train_spo
from .srpo import SRPO, train_srpo

TRAJECTORY, LATENTS, OWN_IMAGES = "trajectory", "latents", "its own images"


@dataclass(frozen=True)
class Method:
    """How settings are trained with.

    step: (policy, rollout, feedback, settings, optimizer, progress) -> policy; where needs is OWN_IMAGES
    (policy, course, settings, optimizer) -> policy. learns_from: the kind of feedback, None for none. needs: of a rollout,
    its TRAJECTORY or only its LATENTS; OWN_IMAGES where images are made inside the step, for the reward's gradient.
    cost: (settings, Work) -> the train step's evaluations, at most. keeps: names among the policy's anchors of copies that follow
    the weights while this method trains; under another one they would stay where they are, so they are dropped then. by_group:
    a micro-batch holds whole prompts. behind: as what it takes images that are drawn while it trains, see there; "": not at all.
    """

    step: Callable
    learns_from: type | None = Advantages
    needs: str = LATENTS
    keeps: tuple[str, ...] = ()
    cost: Callable[..., Train] | None = None
    by_group: bool = False
    behind: str = ""
    __repr__ = brief


METHODS: dict[type, Method] = {
    FlowGRPO: Method(train_flow_grpo, needs=TRAJECTORY, behind=RATIO, cost=lambda s, w: w.replayed(s.beta > 0, s.watch_kl)),
    RTDMD: Method(train_rtdmd, needs=TRAJECTORY, keeps=(FAKE,), cost=rtdmd_cost),
    DDPO: Method(train_ddpo, needs=TRAJECTORY, behind=RATIO, cost=lambda s, w: w.replayed(False, s.watch_kl)),
    DPOK: Method(train_dpok, needs=TRAJECTORY, behind=RATIO, cost=dpok_cost),
    NFT: Method(train_nft, keeps=(OLD,), behind=OLD_POLICY, cost=lambda s, w: w.noised(
        s.levels, (s.kl_weight > 0) + w.lagging, not w.lagging)),
    AWM: Method(train_awm, keeps=(FOLLOWER,), behind=OLD_POLICY, cost=lambda s, w: w.noised(
        s.levels, (s.beta > 0) + (s.ema_beta > 0 and w.lagging), 1)),
    DGPO: Method(train_dgpo, by_group=True, behind=OLD_POLICY, cost=lambda s, w: w.noised(
        s.levels, branches(s.reference_guidance), s.clip_range > 0)),
    CRD: Method(train_crd, by_group=True, keeps=(OLD, RIVAL), behind=DATA, cost=lambda s, w: w.noised(
        s.levels, (s.kl_weight > 0) * branches(s.reference_guidance) + w.lagging, not w.lagging)),
    RWR: Method(train_rwr, behind=DATA, cost=lambda s, w: w.noised(s.levels)),
    DiffusionDPO: Method(train_dpo, Preferences, behind=DATA, cost=lambda s, w: w.paired(s.levels, True)),
    MaPO: Method(train_mapo, Preferences, behind=DATA, cost=lambda s, w: w.paired(s.levels, False)),
    KTO: Method(train_kto, Labels, behind=DATA, cost=kto_cost),
    D3PO: Method(train_d3po, Preferences, behind=DATA, cost=lambda s, w: w.paired(w.branches * w.random, True)),
    SPO: Method(train_spo, StepPreferences, needs=TRAJECTORY, cost=lambda s, w: (w.branches * w.pairs,) * 2),
    LCM: Method(train_lcm, None, behind=DATA, cost=lcm_cost),
    ADD: Method(train_add, None, behind=DATA, cost=lambda s, w: w.noised(s.levels, 2 + branches(s.guidance or w.guidance))),
    DiffusionOPD: Method(train_opd, None, cost=opd_cost),
    DRaFT: Method(train_draft, None, OWN_IMAGES, cost=lambda s, w: w.walked(
        s.extra_noises + (s.kl_weight > 0) * ((s.steps or w.steps) + s.extra_noises))),
    AlignProp: Method(train_alignprop, None, OWN_IMAGES, cost=lambda s, w: w.walked()),
    ReFL: Method(train_refl, None, OWN_IMAGES, cost=refl_cost),
    DRTune: Method(train_drtune, None, OWN_IMAGES, cost=lambda s, w: w.walked()),
    SRPO: Method(train_srpo, None, OWN_IMAGES, cost=lambda s, w: w.walked(2)),
}


@dataclass(frozen=True)
class Trainer:
    """A method with its settings (a key of METHODS by type) and the optimizer's.

    open: "method.name" and "optimizer.name" of those that were left to the recommended numbers.
    """

    settings: object
    optimizer: Optimizer
    open: tuple[str, ...] = ()
    __repr__ = brief


def adopted(trainer: object) -> Trainer:
    """A trainer of this pack as it is; one of another pack as one of this. ValueError where it is neither."""
    return trainer if isinstance(trainer, Trainer) else Trainer(*foreign(trainer))


def name_of(trainer: object) -> str:
    settings = adopted(trainer).settings
    return settings.name if isinstance(settings, Foreign) else type(settings).__name__


def method_of(trainer: object) -> Method:
    """ValueError where nobody knows a method for these settings."""
    settings = adopted(trainer).settings
    if isinstance(settings, Foreign):
        return Method(settings.step, settings.learns_from, settings.needs)
    if type(settings) not in METHODS:
        raise ValueError(f"trainer: {name_of(trainer)} is no trainer; connect a node from the menu PostTrain > 6 Trainers")
    return METHODS[type(settings)]


def table_name(trainer: object) -> str:
    """What the table of recommended numbers calls it."""
    settings = adopted(trainer).settings
    return settings.name if isinstance(settings, Foreign) else variant_of(settings)


def settled_trainer(policy: Policy, trainer: Trainer) -> Trainer:
    """The trainer with what it left open as it is recommended for the policy's model."""
    if not trainer.open:
        return trainer
    found = recommended(policy.model, table_name(trainer))
    names = [name.partition(".")[::2] for name in trainer.open]
    wanted = {part: [name for kind, name in names if kind == part] for part in ("method", "optimizer")}
    if "learning_rate" not in wanted["optimizer"]:
        # a recommended epsilon belongs to the rate beside it
        wanted["optimizer"] = [name for name in wanted["optimizer"] if name != "epsilon"]
    return Trainer(settled(trainer.settings, wanted["method"], found.values("method")),
                   settled(trainer.optimizer, wanted["optimizer"], found.values("optimizer")))


def as_steered(policy: Policy, trainer: Trainer) -> Trainer:
    """The trainer with the numbers that the user has changed while it trains."""
    knobs = policy.memory.get(KNOBS, {})
    if LEARNING_RATE in knobs:
        trainer = replace(trainer, optimizer=replace(trainer.optimizer, learning_rate=knobs[LEARNING_RATE]))
    if KL_WEIGHT in knobs:
        name = "kl_weight" if hasattr(trainer.settings, "kl_weight") else "beta"
        trainer = replace(trainer, settings=replace(trainer.settings, **{name: knobs[KL_WEIGHT]}))  # type: ignore[type-var]
    return trainer


def goes_through_reward(trainer: Trainer) -> bool:
    """Whether ``backprop_step`` serves this trainer, not ``train_step``."""
    return method_of(trainer).needs == OWN_IMAGES


def reads_means(trainer: Trainer) -> bool:
    """Whether a step reads the means of the rollout's steps, as large as its states. Of another pack's trainer nobody knows."""
    settings = adopted(trainer).settings
    return isinstance(settings, Foreign) or isinstance(settings, FlowGRPO) and settings.trust in FROM_MEANS


def cost_of(policy: Policy, trainer: Trainer, sampling: Sampling, prompts: int) -> Cost | None:
    """What an iteration costs at most, by its plan; None for a trainer of another pack, of which nobody knows. prompts: how many
    there are. Trainers of pairs: with one pair of each prompt."""
    given = adopted(trainer)
    method, trainer = method_of(given), settled_trainer(policy, given)
    if method.cost is None:
        return None
    policy = replace(policy, method=policy.method or table_name(trainer))
    own = method.needs == OWN_IMAGES
    work = work_of(settled_sampling(policy, sampling), prompts, trainer.optimizer.updates, own, policy.iteration)
    work = replace(work, lagging=any(name in policy.anchors for name in method.keeps), by_group=method.by_group)
    gradient, further = method.cost(trainer.settings, work)
    return Cost(work.images, 0 if own else work.sampling, gradient, further)


@timed(TRAINING)
@torch.inference_mode(False)
@torch.no_grad()
def train_step(policy: Policy, rollout: Rollout, feedback: Feedback | None, trainer: Trainer, *,
               progress: Callable[[int, int], None] | None = None) -> Policy:
    """The policy after one train step; the one that came in is unchanged.

    Its metrics hold the rollout's, the feedback's and the update's numbers; its memory what the advantage rule
    carries on. With nothing to learn from (all scores equal or failed) the weights stay and the metrics say so; a
    trainer that needs no feedback (distillation) only reports what it is given. ValueError where the trainer learns from
    another kind of feedback.
    """
    given = adopted(trainer)
    method = _checked(given, through_reward=False)
    trainer = as_steered(policy, settled_trainer(policy, given))
    # what the host's nodes made along the way may be inference tensors
    rollout, feedback = for_autograd(rollout), outside_inference(feedback)
    check_fits(name_of(trainer), method.learns_from, feedback, rollout)
    check_behind(name_of(trainer), method.behind, rollout)
    policy = replace(policy, memory=with_room(policy.memory, rollout.room))
    rollout.prompts.prepare(rollout.index.unique())
    stats = {"failed": float((~finite_latents(rollout)).sum())} if feedback is None else feedback.stats
    numbers = stats | rollout.numbers()
    if method.learns_from is None or teaches(feedback):
        if method.needs == TRAJECTORY:
            rollout.random_steps()
        # images made once, before the loop or elsewhere, get new noise, levels and order in each step
        rollout = replace(rollout, iteration=policy.iteration)
        new = method.step(policy, rollout, feedback, trainer.settings, trainer.optimizer, progress)
    else:
        # scores that are merely equal are no fault; scores that all failed are, and are counted as one
        fault = int(feedback.stats["failed"] == len(rollout.index))
        in_a_row = int(policy.metrics.get(SKIPPED, 0)) + fault
        new = replace(policy, metrics={"updates": 0, "skipped_updates": fault, SKIPPED: in_a_row})
    remembered = getattr(feedback, "memory", None)
    memory = new.memory if remembered is None else {**new.memory, "rewards": remembered}
    used = _used(policy, given, trainer, rollout.sampling, rollout.recommended)
    return replace(_without_strays(carried_on(new, policy, rollout), method), metrics=numbers | new.metrics, memory=memory,
                   iteration=policy.iteration + 1, numbers=used)


@timed(TRAINING)
@torch.inference_mode(False)
@torch.no_grad()
def backprop_step(policy: Policy, prompts: PromptSet, vae, reward, sampling: Sampling, trainer: Trainer,
                  iteration: int = 0, *, data: Rollout | None = None,
                  progress: Progress | None = None) -> tuple[Policy, torch.Tensor]:
    """The policy after one step through the reward, and the step's images [B, H, W, 3] in [0, 1].

    vae: the user's; reward: a differentiable one; sampling, iteration, progress: as in ``rollout``; data: finished images
    for ReFL's pretraining term. The policy that came in is unchanged. ValueError names the input that does not fit.
    """
    given = adopted(trainer)
    method = _checked(given, through_reward=True)
    trainer = as_steered(policy, settled_trainer(policy, given))
    asking = replace(policy, method=policy.method or table_name(trainer))
    reward = reweighted(reward, asked_weights(policy))
    course = Course(asking, prompts, vae, reward, sampling, iteration, data=None if data is None else for_autograd(data),
                    progress=progress)
    new = method.step(policy, course, trainer.settings, trainer.optimizer)
    used = _used(policy, given, trainer, course.sampling, course.recommended)
    metrics = course.stats() | told(reward) | new.metrics
    new = replace(_without_strays(new, method), metrics=metrics, iteration=policy.iteration + 1, numbers=used)
    return new, course.images


def _used(policy: Policy, given: Trainer, settled: Trainer, sampling: Sampling | None, left_open: tuple[str, ...]) -> dict:
    """The numbers of a step. given: the trainer as it came, settled: with its open numbers filled in; sampling, left_open: how
    its images were sampled, and which of those settings were left to the recommendation."""
    return numbers_in_use(policy, table_name(settled), settled.settings, settled.optimizer, sampling,
                          (*given.open, *(f"sampling.{name}" for name in left_open)))


def _without_strays(policy: Policy, method: Method) -> Policy:
    """Copies of the weights that follow them under another method would stay where they are under this one."""
    others = {name for other in METHODS.values() for name in other.keeps} - set(method.keeps)
    return replace(policy, anchors={name: bank for name, bank in policy.anchors.items() if name not in others})


def _checked(trainer: Trainer, through_reward: bool) -> Method:
    """ValueError where the other train step serves this trainer, or a setting of it is out of range."""
    name, method = name_of(trainer), method_of(trainer)
    if goes_through_reward(trainer) == through_reward:
        check_limits(trainer.settings)
        check_limits(trainer.optimizer)
        return method
    if not through_reward:
        raise ValueError(f"trainer: {name} makes its own images and follows the reward's gradient, so it needs no rollout; "
                         "use the node Train Step (through the reward) in place of Rollout, Score, Advantages and Train Step")
    raise ValueError(f"trainer: {name} learns from a rollout and feedback on it, not through the reward; use Rollout, "
                     "Score, Advantages and Train Step with it, or connect DRaFT, AlignProp, ReFL, DRTune or SRPO here")
