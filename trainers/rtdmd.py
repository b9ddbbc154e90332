"""RTDMD (arXiv:2605.26108), the part of it that tunes models of few steps, Turbo ones among them: the random steps learn from
any reward as in Flow-GRPO; the last step, which has no noise, follows the gradient of one that has a gradient; and a brake holds
the pictures to what the model before training makes.

The brake compares two answers about the student's renoised pictures: of the teacher, which is the model under the policy, and
of a fake score, a bank beside the policy's with an optimizer of its own, which learns the student's pictures as they change.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..rewards.base.reward import Reward, as_reward
from ..rewards.base.words import brief
from ..rewards.learned.holder import held_together
from .engine.cost import Train, Work, branches
from .engine.limits import ABOVE_0, ANY, BELOW_1, FROM_0
from .engine.renoise import teacher_grid, usable
from .engine.replay import Step, replayed, steps_of
from .engine.reward_walk import check_differentiable, judged, known
from .engine.update import Beside, Number, Optimizer, numbers, update
from .feedback.advantages import Advantages
from .losses.error import squared_error
from .losses.flow_grpo import flow_grpo_loss
from .losses.refl import hinge_reward_loss
from .losses.rtdmd import brake_loss, fake_score_loss
from .noise.streams import Stream, generator
from .noise.transitions import deterministic
from .policy.latents import to_images_with_gradient
from .policy.network import Network
from .policy.uploads import uploaded
from .policy.value import Bank, Policy
from .sampling.rollout import Rollout

FAKE = "fake score"  # the bank that knows the student's pictures, among the anchors
LEVELS = 100  # of the fine grid from which noise levels are drawn
ENDS = 0.02, 0.98  # of the teacher's way, between which the brake looks


@dataclass(frozen=True)
class Judge:
    """What the last step follows. reward: with a gradient; vae: the user's."""

    reward: Reward
    vae: Any
    __repr__ = brief


@dataclass(frozen=True)
class RTDMD:
    """RTDMD (arXiv:2605.26108). clip_range: how far a random step may move; brake: weight of the distribution matching, 0: none;
    guidance: the teacher's scale there, 0: the rollout's; fake_rate: learning rate of the fake score; margin: rewards from here
    on give the last step no gradient; scale: factor of that reward's loss; judge: of the last step, None: the brake alone."""

    LIMITS: ClassVar[dict] = {
        "clip_range": BELOW_1,
        "brake": FROM_0,
        "guidance": FROM_0,
        "fake_rate": ABOVE_0,
        "margin": ANY,
        "scale": FROM_0,
    }
    clip_range: float = 1e-5
    brake: float = 1e-3
    guidance: float = 0.0
    fake_rate: float = 3e-5
    margin: float = 3.0
    scale: float = 1e-4
    judge: Judge | None = None
    __repr__ = brief


@dataclass(frozen=True)
class Last:
    """The last step of some samples. rows: of the rollout, a batch as it was sampled; used: [B] bool; sigmas, noises: [B], [B, C,
    H, W] for the brake and for the fake score."""

    rows: slice
    used: torch.Tensor
    brake: tuple[torch.Tensor, torch.Tensor]
    fake: tuple[torch.Tensor, torch.Tensor]
    __repr__ = brief

    @property
    def size(self) -> int:
        return int(self.used.sum())


def train_rtdmd(
    policy: Policy,
    rollout: Rollout,
    advantages: Advantages,
    settings: RTDMD,
    optimizer: Optimizer,
    progress: Callable | None = None,
) -> Policy:
    """An RTDMD step. Evaluations per image: 1 with gradient in each random step and in the last; with the brake 1 of the teacher
    (2 with guidance), and 2 of the fake score, one of them with gradient. ValueError names what does not fit."""
    check_reward(settings)
    each_step = advantages.values[:, None].expand(-1, rollout.random_steps().steps)
    beside = Beside(FAKE, lambda net: policy.bank, Optimizer(learning_rate=settings.fake_rate, weight_decay=0.0))

    def evaluate(net: Network, bank: Bank, micro: Step | Last, fake: Bank | None = None):
        if isinstance(micro, Last):
            return last_step(net, bank, fake, policy.model, rollout, micro, settings)
        now = replayed(net, bank, rollout, each_step, micro, False)
        out = flow_grpo_loss(now.log_prob, now.old_log_prob, now.advantage, settings.clip_range)
        return out.loss, numbers(
            ratio_mean=out.ratio.mean(), ratio_largest_change=(out.ratio - 1).abs().max(), clip_fraction=out.clip_fraction
        )

    judge = settings.judge
    with nullcontext([]) if judge is None else held_together(judge.reward) as networks:
        return update(
            policy,
            micros(policy, rollout, advantages, optimizer.updates, needs_last(settings)),
            evaluate,
            optimizer,
            progress=progress,
            beside=beside if settings.brake else None,
            also_load=[] if judge is None else [judge.vae.patcher, *networks],
        )


def check_reward(settings: RTDMD) -> None:
    """ValueError where the last step has a reward that it cannot follow."""
    if settings.judge is not None:
        check_differentiable(as_reward(settings.judge.reward))


def needs_last(settings: RTDMD) -> bool:
    return settings.brake > 0 or settings.judge is not None


def micros(policy: Policy, rollout: Rollout, advantages: Advantages, updates: int, last: bool) -> list[list[Step | Last]]:
    """The micro-batches of each update: the random steps of batches in which some image differs from the others of its prompt,
    and, with ``last``, the last step of the same batches."""
    fine, good = teacher_grid(policy, LEVELS)[:-1], usable(rollout)
    found: list[list[Step | Last]] = []
    for steps in steps_of(rollout, advantages, updates):
        own: list[Step | Last] = list(steps)
        starts = dict.fromkeys(step.rows.start for step in steps) if last else {}
        rows = [slice(at, at + rollout.batch_size) for at in starts]
        found.append(
            own
            + [
                Last(
                    each,
                    good[each],
                    drawn(rollout, each, fine, Stream.BRAKE_DRAW),
                    drawn(rollout, each, fine, Stream.FAKE_DRAW),
                )
                for each in rows
                if bool(good[each].any())
            ]
        )
    return found


def drawn(rollout: Rollout, rows: slice, fine: torch.Tensor, key: Stream) -> tuple[torch.Tensor, torch.Tensor]:
    """([B], [B, C, H, W]): noise levels of the grid, and noise. The brake's are logit-normal in time, in the middle mostly; those
    at which the fake score learns are spread evenly."""
    draws = []
    for seed in rollout.seeds[rows].tolist():
        random = generator(rollout.iteration, int(seed), key)
        place = torch.rand((), generator=random)
        if key == Stream.BRAKE_DRAW:
            place = torch.sigmoid(torch.randn((), generator=random)).clamp(*ENDS)
        draws.append(
            (fine[min(int(place * len(fine)), len(fine) - 1)], torch.randn(rollout.latents.shape[1:], generator=random))
        )
    return torch.stack([sigma for sigma, _ in draws]), torch.stack([noise for _, noise in draws])


def last_step(
    net: Network, bank: Bank, fake: Bank | None, model, rollout: Rollout, micro: Last, settings: RTDMD
) -> tuple[torch.Tensor, dict[str, Number]]:
    """(loss, report): the brake, the reward and the fake score's own error on what the last step makes. model: the user's."""
    used = uploaded(micro.used.nonzero().flatten(), net.device)
    index = rollout.index[micro.rows][micro.used]
    x0 = asked(net, bank, rollout, micro.rows, before_last(net, bank, rollout, micro.rows), len(rollout.sigmas) - 2)[used]
    report: dict[str, Number] = {}
    loss = x0.new_zeros(())
    if fake is not None:
        brake, learned = answers(net, fake, rollout, micro, x0, index, settings.guidance or rollout.guidance)
        loss = settings.brake * brake + learned
        report |= numbers(brake=brake, fake_score_error=learned)
    if settings.judge is not None:
        judge, prompts = settings.judge, rollout.prompts.prompts
        images = to_images_with_gradient(model, judge.vae, x0, recompute=net.recomputes)
        rewards, *_ = known(judged(net, as_reward(judge.reward), images, [prompts[int(i)] for i in index], index)[""])
        out = hinge_reward_loss(rewards, settings.margin, settings.scale)
        loss = loss + out.loss
        report |= numbers(last_step_reward=out.reward, saturated=out.saturated)
    return loss, report


def answers(
    net: Network, fake: Bank, rollout: Rollout, micro: Last, x0: torch.Tensor, index: torch.Tensor, guidance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(brake, the fake score's error) about the student's pictures x0 [U, C, H, W]; the former's gradient reaches them, the
    latter's the fake score."""
    picture = x0.detach()

    def about(draw: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sigma, noise = (uploaded(part[micro.used], x0.device, x0.dtype) for part in draw)
        return net.path.add_noise(picture, noise, sigma), sigma, noise

    def ask(x: torch.Tensor, sigma: torch.Tensor, weights: Bank | None, scale: float = 1.0) -> torch.Tensor:
        return net.denoise(x, sigma, rollout.prompts, index, scale, weights, schedule=rollout.sigmas)

    with torch.no_grad():
        x, sigma, _ = about(micro.brake)
        real, known_fake = ask(x, sigma, None, guidance), ask(x, sigma, fake)
    x, sigma, noise = about(micro.fake)
    prediction = net.path.prediction(x, ask(x, sigma, fake), sigma)
    if net.path.name == "flow":
        learned = fake_score_loss(prediction, picture, noise, torch.zeros_like(sigma), sigma)
    else:
        learned = squared_error(prediction, net.path.target(picture, noise, sigma)).mean()
    return brake_loss(x0, known_fake, real), learned


def before_last(net: Network, bank: Bank, rollout: Rollout, rows: slice) -> torch.Tensor:
    """[B, C, H, W]: the state before the sampler's last step; from the last random one on by the policy's own way there."""
    there = rollout.random_steps()
    x = uploaded(there.states[rows, -1], net.device)
    at = int((rollout.sigmas == there.sigmas[-1]).nonzero()[0])
    step = deterministic()
    with torch.no_grad():
        for k in range(at, len(rollout.sigmas) - 2):
            sigma, after = (uploaded(rollout.sigmas[place], x.device, x.dtype).expand(len(x)) for place in (k, k + 1))
            x = step(net.path, x, asked(net, bank, rollout, rows, x, k), sigma, after).mean
    return x


def asked(net: Network, bank: Bank, rollout: Rollout, rows: slice, x: torch.Tensor, k: int) -> torch.Tensor:
    """The policy's clean estimate of the state before the sampler's step k."""
    sigma = uploaded(rollout.sigmas[k], x.device, x.dtype).expand(len(x))
    return net.denoise(x, sigma, rollout.prompts, rollout.index[rows], rollout.guidance, bank, schedule=rollout.sigmas)


def rtdmd_cost(settings: RTDMD, work: Work) -> Train:
    """The random steps and the last one; quiet steps in between are walked again."""
    gradient, _ = work.replayed(False)
    if not needs_last(settings) or not work.random:
        return gradient, 0
    braked = settings.brake > 0
    quiet = work.branches * (work.steps - 1 - work.random)
    return (
        gradient + work.images * (work.branches + braked),
        work.images * (quiet + braked * (1 + branches(settings.guidance or work.guidance))),
    )
