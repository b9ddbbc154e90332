"""Exact rule verifier of the toy world's edits: compares the balls of an edited picture with those of the prompt's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..rewards.base.reward import Prompt, RewardInfo
from .verifier import Found, find_balls

KINDS = ("mixed", "strict", "dense")
AT_ITS_PLACE = 1.5  # pixels between a ball's middle before and after: cells lie 8 apart, and none is drawn 1 from its place


def wanted(before: Found, spec: dict) -> list[tuple[str, float, float]]:
    """The balls that the edited picture must show."""
    return [(spec["to"] if colour == spec["from"] else colour, y, x) for colour, y, x in before.balls]


def judge_edit(before: Found, after: Found, spec: dict) -> tuple[float, float]:
    """-> (strict 0 or 1, dense in [0, 1]). Dense: half for the ball that was to be painted, half for the others, which must
    stay as they were, and for none too many."""
    expected, changed, kept = wanted(before, spec), 0, 0
    for (old, *_), (colour, y, x) in zip(before.balls, expected, strict=True):
        there = any(c == colour and max(abs(y - v), abs(x - u)) <= AT_ITS_PLACE for c, v, u in after.balls)
        changed, kept = changed + (there and old == spec["from"]), kept + (there and old != spec["from"])
    others = len(expected) - 1
    share = 2 * kept / max(others + max(len(after.balls) - 1, 0), 1)
    dense = (changed + share) / 2 * (1.0 if after.clean else 0.5) * 0.8**after.malformed
    strict = changed == 1 and kept == others and len(after.balls) == len(expected) and after.clean and not after.malformed
    return float(strict), dense


class EditVerifier:
    """Reward of the toy world's edits. ``kind``: "strict" (0 or 1), "dense" (partial credit) or "mixed" (half of each)."""

    def __init__(self, kind: str = "mixed") -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}.")
        self.kind = kind
        self.info = RewardInfo(
            f"edit verifier ({kind})",
            low=0.0,
            high=1.0,
            needs_prompt=True,
            differentiable=False,
            description="Looks whether the one ball was painted and all others stayed as they were.",
        )

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        for each in prompts:
            if each.source is None or (each.spec or {}).get("kind") != "paint":
                raise ValueError(
                    f"The prompt {each.text!r} is no edit of the demo world: the verifier only knows those that "
                    "come with a picture from Demo Edits."
                )

    def both(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """-> [B, 2]: strict and dense."""
        self.check_prompts(prompts)
        before = find_balls(torch.stack([each.source.read() for each in prompts]))
        return torch.tensor(
            [judge_edit(b, a, each.spec) for b, a, each in zip(before, find_balls(images), prompts, strict=True)]
        ).reshape(-1, 2)

    def __call__(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """images [B, H, W, 3] in [0, 1] -> scores [B]."""
        strict, dense = self.both(images, prompts).unbind(1)
        return {"strict": strict, "dense": dense, "mixed": (strict + dense) / 2}[self.kind]
