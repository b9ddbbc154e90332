"""Several rewards that hold each other in check.

Every member is put on one scale, the trained ones are combined, gates veto, a tie-break decides between equals, and
monitors only watch: a reward that is never trained on is what shows that the others are being gamed. Default: z-score
inside each prompt group, weighted mean, z-score over the batch (GDPO, arXiv:2601.05242), so that no reward wins by its
scale alone.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..base.reward import Judgement, Prompt, Reward, RewardInfo, as_reward, compares, groups_of
from ..base.words import brief
from .calibrate import Calibration
from .combine import all_networks, evaluate_members, merged_counts, unique_names
from .normalise import batch_z, calibrated, group_masks, group_z, win_rate

ROLES = ("trained", "gate", "soft gate", "tie-break", "monitor")
SCALES = ("z-score in the prompt group", "z-score in the batch", "calibrated", "win rate in the prompt group", "raw")
COMPARING = (SCALES[0], SCALES[1], SCALES[3])
COMBINE = ("weighted mean", "worst member", "mean - k * spread")


@dataclass(frozen=True)
class Member:
    """A reward and its part in an ensemble; by itself it scores as the reward does.

    weight: of trained and tie-break members; negative = penalty. scale: one of SCALES. threshold: raw score that an
    image must reach at a gate. softness: width of a soft gate around the threshold, in raw units, above 0.
    """

    reward: Reward
    role: str = ROLES[0]
    weight: float = 1.0
    scale: str = SCALES[0]
    threshold: float = 0.5
    softness: float = 0.1
    __repr__ = brief

    def __post_init__(self):
        object.__setattr__(self, "reward", as_reward(self.reward))
        for name, value, known in (("role", self.role, ROLES), ("scale", self.scale, SCALES)):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got '{value}'.")
        if self.role == "soft gate" and not self.softness > 0:
            raise ValueError("softness must be above 0; use a gate for a hard limit.")

    @property
    def info(self) -> RewardInfo:
        return self.reward.info

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.reward(images, prompts)

    def counts(self) -> dict[str, float]:
        return merged_counts([self.reward])

    def networks(self) -> list:
        return all_networks([self.reward])

    @property
    def compares(self) -> bool:
        return compares(self.reward)


@dataclass(frozen=True)
class Ensemble:
    """members: rewards; a plain one counts as a trained Member with weight 1. combine: one of COMBINE; k: of the third.
    again: z-score the result over the batch. calibration: for members on the scale "calibrated"."""

    members: tuple[Reward, ...]
    combine: str = COMBINE[0]
    k: float = 1.0
    again: bool = True
    calibration: Calibration | None = None
    __repr__ = brief

    def __post_init__(self):
        if self.combine not in COMBINE:
            raise ValueError(f"combine must be one of {COMBINE}, got '{self.combine}'.")
        object.__setattr__(self, "members", tuple(m if isinstance(m, Member) else Member(m) for m in self.members))
        if not self.of("trained"):
            raise ValueError("The ensemble has no trained member with a weight: connect at least one reward whose role "
                             "is 'trained'.")
        for name, m in zip(self.names, self.members):
            if m.scale == "calibrated" and name not in (self.calibration or {}):
                raise ValueError(f"'{name}' is to be put on the calibrated scale, but there is no calibration of it: "
                                 "connect Calibrate Rewards, or choose another scale.")

    @property
    def names(self) -> list[str]:
        return unique_names([m.info.name for m in self.members])

    def of(self, *roles: str) -> list[Member]:
        return [m for m in self.members if m.role in roles and acts(m)]

    @property
    def info(self) -> RewardInfo:
        acting = self.of("trained", "gate", "soft gate", "tie-break")
        smooth = all(m.info.differentiable and m.scale != SCALES[3] for m in self.of("trained", "tie-break"))
        smooth = smooth and all(m.info.differentiable for m in self.of("soft gate"))
        return RewardInfo(f"ensemble of {len(acting)}", None, None, any(m.info.needs_prompt for m in self.members), smooth,
                          f"{self.combine}: " + ", ".join(f"{m.info.name} ({m.role})" for m in self.members))

    def notes(self) -> list[str]:
        """What a user should think about before training on this ensemble."""
        found = []
        if not self.of("monitor"):
            found.append("No monitor: connect one reward with the role 'monitor', which is never trained on. Without it "
                         "nothing shows whether the images get better or only the scores.")
        if any(m.scale == "raw" for m in self.of("trained")) and len(self.of("trained")) > 1:
            found.append("A trained member is on its raw scale: the one with the widest range decides.")
        return found

    def counts(self) -> dict[str, float]:
        return merged_counts(self.members)

    def networks(self) -> list:
        return all_networks(self.members)

    def steered_weights(self) -> dict[str, float]:
        return {name: m.weight for name, m in self._by_name().items() if m.role == ROLES[0]}

    def with_weights(self, weights: Mapping[str, float]) -> Ensemble:
        """ValueError where no trained member would have one."""
        changed: list = [replace(m, weight=weights.get(name, m.weight)) for name, m in self._by_name().items()]
        return replace(self, members=tuple(changed))

    def _by_name(self) -> dict[str, Member]:
        return dict(zip(self.names, self.members))  # type: ignore[arg-type]  # all are Members by now

    @property
    def compares(self) -> bool:
        return self.again or any(m.scale in COMPARING or m.compares for m in self.of("trained", "tie-break"))

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.evaluate(images, prompts, groups_of(prompts)).values

    def evaluate(self, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
        if images.requires_grad and torch.is_grad_enabled():
            self._check_spread(groups)
        watched = [i for i, m in enumerate(self.members) if m.role in ("gate", "monitor")]
        found, shown = evaluate_members([m.reward for m in self.members], images, prompts, groups, watched)
        scaled = {name: self._scaled(name, m, v.cpu().double(), groups)
                  for name, m, v in zip(self.names, self.members, found)}

        def acting(*roles: str) -> list[tuple[Member, Tensor]]:
            return [(m, z) for m, z in zip(self.members, scaled.values()) if m.role in roles and acts(m)]

        total = combined(acting("trained"), self.combine, self.k)
        if ties := acting("tie-break"):
            total = tie_broken(total, combined(ties, COMBINE[0], 0.0), groups)
        if gates := acting("gate", "soft gate"):
            total = gated(total, torch.stack([opened for _, opened in gates]).prod(0), groups)
        return Judgement(batch_z(total) if self.again else total, shown, scaled)

    def _check_spread(self, groups: Tensor) -> None:
        """ValueError where every score would be its own mean, 0, and teach nothing through its gradient."""
        alone, scales = len(groups.unique()) == len(groups), {m.scale for m in self.of("trained")}
        if alone and SCALES[0] in scales or len(groups) == 1 and (self.again or SCALES[1] in scales):
            raise ValueError("reward: the ensemble compares images of the same prompt, but here each prompt has one image at a "
                             "time, so that no score carries a gradient. In Reward Member choose the scale 'raw' or "
                             "'calibrated', and switch normalise_again off in Reward Ensemble; or sample several images per "
                             "prompt, with a batch size that holds them together")

    def _scaled(self, name: str, member: Member, values: Tensor, groups: Tensor) -> Tensor:
        """What the member contributes: its normalised score, or how far its gate is open."""
        if "gate" in member.role:
            return opening(member, values)
        if member.scale == "calibrated":
            s = self.calibration[name]
            return calibrated(values, s.mean, s.std)
        rules = {SCALES[0]: group_z, SCALES[1]: lambda v, g: batch_z(v), SCALES[3]: win_rate, "raw": lambda v, g: v}
        return rules[member.scale](values, groups)


def acts(member: Member) -> bool:
    """A weight of 0 switches trained and tie-break members off; gates and monitors have none."""
    return member.weight != 0 or member.role in ("gate", "soft gate", "monitor")


def combined(members: Sequence[tuple[Member, Tensor]], rule: str, k: float) -> Tensor:
    """Scaled scores of the members -> one [B]. Weights are relative; a negative one turns the score around."""
    weights = torch.tensor([abs(m.weight) for m, _ in members], dtype=torch.float64)
    weights = (weights / weights.sum())[:, None]
    scores = torch.stack([z if m.weight > 0 else -z for m, z in members])
    if rule == "worst member":
        return scores.amin(0)
    mean = (weights * scores).sum(0)
    if rule == "weighted mean":
        return mean
    variance = (weights * (scores - mean) ** 2).sum(0)
    return mean - k * variance.clamp_min(1e-12).sqrt()  # the floor keeps the gradient finite where all agree


def opening(member: Member, values: Tensor) -> Tensor:
    """How far a gate is open for each image, 0..1: a step at the threshold, or a sigmoid around it. NaN stays NaN."""
    if member.role == "soft gate":
        return ((values - member.threshold) / member.softness).sigmoid()
    return torch.where(values.isnan(), values, (values >= member.threshold).double())


def gated(total: Tensor, opened: Tensor, groups: Tensor) -> Tensor:
    """Closed images fall to one below the worst score that their group has, whatever the sign of the scores."""
    floor = torch.full_like(total, torch.nan).detach()
    for members in group_masks(total, groups):
        floor[members] = total[members].detach().min() - 1
    return floor + (total - floor) * opened


def tie_broken(total: Tensor, tie: Tensor, groups: Tensor) -> Tensor:
    """Adds the tie-break, made so small that it can never reverse two different totals of a group."""
    room = torch.ones_like(total).detach()
    for members in group_masks(total, groups):
        gaps = total[members].detach().mul(1e9).round().unique(sorted=True).diff() / 1e9
        room[members] = gaps.min() if len(gaps) else 1.0
    return total + 0.49 * room * tie.tanh()
