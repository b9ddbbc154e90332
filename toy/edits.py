"""Edits of the toy world: pictures of two to four balls with the words ``paint the red ball blue``.

The record of such a prompt is ``{"kind": "paint", "from": "red", "to": "blue"}``; what else the edited picture must show is seen
in the prompt's own picture, which has exactly one ball of the first colour.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ..rewards.base.prompt import Source
from ..rewards.base.reward import Prompt
from ..trainers.prompts import PromptSet
from . import world

# the model was taught without these, and learns no colour after another from nothing
UNTAUGHT = (("red", "blue"), ("green", "yellow"), ("blue", "red"))
PAIRS = tuple(
    pair for pair in itertools.permutations(world.COLOURS, 2) if pair not in UNTAUGHT
)  # (from, to) of each instruction
BALLS = (2, 4)  # in a picture, at least and at most
PICTURES = {False: 8, True: 4}  # of each instruction, to train on and held out


def instruction(first: str, second: str) -> str:
    return f"paint the {first} ball {second}"


def balls_with_one(colour: str, rng: np.random.Generator) -> list[str]:
    """Colours of the balls of a picture, exactly one of them ``colour``."""
    others = [each for each in world.COLOURS if each != colour]
    found = [others[i] for i in rng.integers(len(others), size=rng.integers(BALLS[0], BALLS[1] + 1) - 1)]
    found.insert(int(rng.integers(len(found) + 1)), colour)
    return found


def painted(balls: list[str], first: str, second: str) -> list[str]:
    return [second if ball == first else ball for ball in balls]


def wrongly_painted(balls: list[str], first: str, second: str, rng: np.random.Generator) -> list[str]:
    """What somebody paints who does not listen: nothing, another colour, another ball, or a ball too many."""
    at = balls.index(first)
    other = [i for i in range(len(balls)) if i != at][rng.integers(len(balls) - 1)]
    shade = lambda but: [c for c in world.COLOURS if c not in but][rng.integers(4 - len(but))]  # noqa: E731
    found, choice = list(balls), rng.integers(4)
    if choice == 1:
        found[at] = shade({first, second})
    if choice >= 2:
        found[other] = second if balls[other] != second else shade({second})
    if choice == 3:
        found[at] = second
    return found


def render(scenes: list[list[str]], seed: int) -> np.ndarray:
    """[N, 24, 24, 3]: pictures of balls of these colours; equally long scenes are laid out alike for the same seed."""
    return world.render([world.spec("scene", [(1, ball) for ball in balls]) for balls in scenes], seed)


def prompt_set(held_out: bool) -> PromptSet:
    """72 training prompts, or 36 of the same instructions with other pictures; not encoded yet."""
    wanted = [pair for pair in PAIRS for _ in range(PICTURES[held_out])]
    seed = 2 if held_out else 1
    rng = np.random.default_rng(seed)
    pictures = torch.from_numpy(render([balls_with_one(first, rng) for first, _ in wanted], seed))
    return PromptSet(
        tuple(
            prompt(pair, pictures[i], f"{'held-out' if held_out else 'training'} picture {i + 1}")
            for i, pair in enumerate(wanted)
        )
    )


def prompt(pair: tuple[str, str], picture: torch.Tensor, name: str) -> Prompt:
    first, second = pair
    return Prompt(
        instruction(first, second),
        {"kind": "paint", "from": first, "to": second},
        source=Source(name, f"demo {name}", lambda: picture),
    )
