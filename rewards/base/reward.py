"""What a reward is, and how a batch of images is scored.

A reward turns images and their prompts into one number per image, higher = better. NaN means "this image could
not be scored" and is never replaced by 0: a zero would silently poison the statistics of its group.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from . import ranks
from .lent import asked_instead, counts_elsewhere
from .prompt import Prompt
from .reweighted import reweighted, told
from .stopwatch import SCORING, timed
from .untouched import untouched
from .usable import usable_images
from .weights import in_plain_words, plain_words
from .words import brief

SUMMARY = ("mean", "std", "min", "max", "images", "failed")


class RewardUnavailable(RuntimeError):
    """A reward cannot score at all at the moment (its server is gone): the run should stop with its state saved, and go
    on later, rather than learn from nothing."""


@dataclass(frozen=True)
class RewardInfo:
    """What a user must know of a reward. low/high: the possible range, None where it is unbounded."""

    name: str
    low: float | None
    high: float | None
    needs_prompt: bool
    differentiable: bool
    description: str


@runtime_checkable
class Reward(Protocol):
    """images [B,H,W,3] in [0, 1] and one prompt per image -> [B] float, higher = better, NaN = failed."""

    info: RewardInfo

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor: ...


@dataclass(eq=False)
class Adopted:
    """A reward of another pack, with all that nodes ask of one. It answers whatever its function answers, as a tensor."""

    function: Callable[[Tensor, Sequence[Prompt]], Tensor]
    info: RewardInfo
    asked_once = True  # nobody knows whether it looks at each image by itself
    __repr__ = brief

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return torch.as_tensor(self.function(images.clone(), prompts))  # it may write into them


def as_reward(value: Any) -> Reward:
    """A reward of this pack as it is; anything else that can be called as (images, prompts) as one of this pack.

    What it does not say of itself, on ``info`` or directly as an attribute, is filled in: name (that of the function or the
    class), low and high (unbounded), needs_prompt and differentiable (no), description (none). ValueError where it cannot
    be called.
    """
    info = getattr(value, "info", None)
    if callable(value) and all(hasattr(info, each.name) for each in fields(RewardInfo)):
        return value
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"reward: {type(value).__name__} is no reward: it must be callable as reward(images, prompts) and "
                         "answer one number per image (docs/other_packs.md)")
    told = value if info is None else info
    usual: dict[str, Any] = {"name": getattr(value, "__name__", type(value).__name__), "low": None, "high": None,
                             "needs_prompt": False, "differentiable": False, "description": ""}
    return Adopted(value, RewardInfo(**{name: getattr(told, name, default) for name, default in usual.items()}))


@dataclass(frozen=True)
class Judgement:
    """What a composite reward answers: its values [B], and per member the raw and the normalised scores [B]. weights:
    where the values are a plain sum of members, what each counts; empty where they are not."""

    values: Tensor
    members: dict[str, Tensor] = field(default_factory=dict)
    normalised: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    __repr__ = brief


@runtime_checkable
class CompositeReward(Reward, Protocol):
    """A reward made of others, or with more to show than its value. It is told the prompt groups, because it may
    normalise inside them."""

    def evaluate(self, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement: ...


@dataclass(frozen=True)
class Scores:
    """Scores of a batch.

    values [B] float64, NaN = failed. groups [B] int64: index of the prompt that each image belongs to.
    members: raw score [B] of each member of a composite reward (of the reward itself where it is a single one).
    stats: mean, std (population), min, max over the images that could be scored; images, failed as counts; and what
    rewards count beside their scores, see ``counts``.
    normalised: score [B] of each member after an ensemble normalised it; empty for other rewards.
    weights: of the members that the values are a plain sum of; empty where they are none, as with gates and monitors;
    None where nobody knows.
    """

    values: Tensor
    groups: Tensor
    members: dict[str, Tensor]
    stats: dict[str, float]
    normalised: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] | None = None
    __repr__ = brief

    def part(self, rows: slice) -> Scores:
        """The scores of some images; what rewards counted stays that of all."""
        return replace(self, values=self.values[rows], groups=self.groups[rows], stats=summary(self.values[rows]) | self.counts,
                       **{name: {key: value[rows] for key, value in getattr(self, name).items()}
                          for name in ("members", "normalised")})

    @property
    def counts(self) -> dict[str, float]:
        """What rewards count beside their scores, such as prompts that were too long for them."""
        return {name: value for name, value in self.stats.items() if name not in SUMMARY}


@timed(SCORING)
def score(reward: Reward, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Scores:
    """Score a batch without gradients. images [B,H,W,C], one prompt per image, groups [B] (prompt index).

    Images with a pixel that is not a number are scored NaN. Raises ValueError for wrong shapes, ranges or counts.
    """
    reward = as_reward(reward)
    images, broken = usable_images(images)
    count = images.shape[0]
    groups = torch.as_tensor(groups).reshape(-1).to("cpu", torch.int64)
    if len(prompts) != count or groups.numel() != count:
        raise ValueError(f"images, prompts and groups must be equally many: {count} images, {len(prompts)} prompts "
                         f"(one per image), {groups.numel()} groups.")
    if reward.info.needs_prompt and not any(p.text.strip() or p.spec for p in prompts):
        raise ValueError(f"The reward '{reward.info.name}' compares the image with its prompt, but every prompt is "
                         "empty. Connect prompts, or use a reward that looks at the image alone.")
    with torch.no_grad(), ranks.dealing_out(), untouched(images, reward.info.name):
        found = evaluate(reward, images, prompts, groups)
    values = checked_values(found.values, reward.info.name, count).masked_fill(broken, torch.nan)
    members = {k: checked_values(v, k, count).masked_fill(broken, torch.nan) for k, v in found.members.items()}
    normalised = {k: checked_values(v, k, count).masked_fill(broken, torch.nan) for k, v in found.normalised.items()}
    return Scores(values, groups, members, summary(values) | _counted(reward), normalised, found.weights)


def score_rollout(reward: Reward, rollout) -> Scores:
    """Score a rollout: .images [B,H,W,3], .prompts.prompts (the prompt set), .index [B] (prompt of each image), .groups [B]
    (those of the same number are compared), .reward_weights ({name: weight} that the user has asked for; None where nobody can).
    """
    check_prompts(reward, rollout.prompts.prompts)
    index, wanted = rollout.index.tolist(), getattr(rollout, "reward_weights", None)
    reward = reward if wanted is None else reweighted(reward, wanted)
    scores = score(reward, rollout.images, [rollout.prompts.prompts[i] for i in index], rollout.groups)
    return scores if wanted is None else replace(scores, stats=scores.stats | told(reward))


def evaluate(reward: Reward, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
    """Ask any reward, composite or single, the same question (gradients are kept where there are any)."""
    prompts = in_plain_words(prompts)
    if ranks.deals() and not parts_of(reward):
        return _on_all_ranks(reward, images, prompts, groups)
    return _asked(reward, images, prompts, groups)


def _asked(reward: Reward, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
    if (elsewhere := asked_instead(reward, prompts)) is not None:
        return elsewhere(images, prompts, groups)
    if isinstance(reward, CompositeReward):
        return reward.evaluate(images, prompts, groups)
    values = reward(images, prompts)
    return Judgement(values, {reward.info.name: values})


def _on_all_ranks(reward: Reward, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
    """The same answer on each rank, from each about its own images; from the first alone where an image's score may depend on
    the others, or where a person, or a reward of another pack, is asked once."""
    name, count = reward.info.name, len(images)
    if compares(reward) or getattr(reward, "asked_once", False):
        return ranks.of_first(name, lambda: _asked(reward, images, prompts, groups))
    own = ranks.block(count)
    parts: dict[tuple[str, str], Tensor] = {}
    if own.stop > own.start:
        found = _asked(reward, images[own], prompts[own], groups[own])
        parts = {("", name): found.values} | {(kind, key): value for kind in ("members", "normalised")
                                              for key, value in getattr(found, kind).items()}
    checked = {key: checked_values(value, name, own.stop - own.start) for key, value in parts.items()}
    whole = ranks.gathered(f"scores of {name}", checked, count)
    members, normalised = ({key: value for (kind, key), value in whole.items() if kind == wanted}
                           for wanted in ("members", "normalised"))
    return Judgement(whole["", name], members, normalised)


def _counted(reward: Reward) -> dict[str, float]:
    """What the reward has counted, on all ranks."""
    return added_up(ranks.met("counts of rewards", counts_of(reward)))


def counts_of(reward: Reward) -> dict[str, float]:
    """What a reward counts beside its scores, such as prompts that were too long for it; {} for most."""
    return (reward.counts() if hasattr(reward, "counts") else {}) | counts_elsewhere(reward)


def added_up(counted: Sequence[dict[str, float]]) -> dict[str, float]:
    """Several counts, by name."""
    return {name: sum(each.get(name, 0.0) for each in counted) for name in dict.fromkeys(key for each in counted for key in each)}


def compares(reward: Reward) -> bool:
    """Whether a score depends on the other images of the batch, so that an image alone has none worth looking at."""
    return getattr(reward, "compares", False)


def check_prompts(reward: Any, prompts: Sequence[Prompt]) -> None:
    """Whether a reward, or a member of it, can judge each of these prompts: ValueError now and not in the middle of a run."""
    if hasattr(reward, "check_prompts"):
        reward.check_prompts(in_plain_words(prompts))
    for part in parts_of(reward):
        check_prompts(part, prompts)


def parts_of(reward: Any) -> list:
    """The rewards that a composite one is made of; [] for single ones."""
    inner = getattr(reward, "reward", None)
    members = [part for member in getattr(reward, "members", ()) for part in (member if isinstance(member, tuple) else (member,))]
    return [part for part in [inner, *members] if callable(part) and hasattr(part, "info")]


def with_rules(prompts: Sequence[Prompt], known: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, each with the record and the picture of the known one that has the same text, where there is one.
    ValueError where several have it, about different pictures."""
    texts = {p.text for p in prompts}
    if twice := [p for p in known if p.source is not None and p.text in texts and any(
            p.text == other.text and p.source != other.source for other in known)]:
        raise ValueError(f"prompts: '{twice[0].text}' is said there of several pictures, so nobody knows which was changed; "
                         "wire prompts in which it is said of one")
    by_text = {plain_words(p.text): p for p in known} | {p.text: p for p in known}
    return [by_text.get(p.text, p) for p in prompts]


def networks_of(reward: Reward) -> list:
    """The holders of the networks that a reward asks, those of a composite's members included; [] for rules."""
    return reward.networks() if hasattr(reward, "networks") else []


def groups_of(prompts: Sequence[Prompt]) -> Tensor:
    """[B] int64: images with the same prompt share a group. For callers that know no prompt index."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(p.key, len(first)) for p in prompts], dtype=torch.int64)


def checked_values(values: Tensor, name: str, count: int) -> Tensor:
    """[B] float64 on the CPU, infinity as NaN. Raises ValueError if the reward did not answer once per image."""
    values = torch.as_tensor(values).detach()
    if values.shape != (count,):
        raise ValueError(f"The reward '{name}' must answer one number per image: expected [{count}], "
                         f"got {list(values.shape)}.")
    values = values.to("cpu", torch.float64)
    return values.masked_fill(~torch.isfinite(values), torch.nan)


def summary(values: Tensor) -> dict[str, float]:
    """Statistics over the scores that are numbers; NaN where every image failed."""
    good = values[~values.isnan()]
    some = good if good.numel() else torch.full((1,), torch.nan, dtype=torch.float64)
    return {"mean": some.mean().item(), "std": some.std(correction=0).item(), "min": some.min().item(),
            "max": some.max().item(), "images": float(values.numel()), "failed": float(values.numel() - good.numel())}
