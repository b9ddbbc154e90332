"""Random streams: every random choice of a training has its own, named here, so that no two ever share numbers."""
from __future__ import annotations

from enum import IntEnum, unique

import torch

_PRIMES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


@unique
class Stream(IntEnum):
    """The last part of a generator's key: which choice its numbers are for. A new choice takes a new number."""

    WINDOW = 1  # where the random steps begin
    DECK = 2  # the order in which prompts are dealt
    SEEDS = 3  # of each sample's noise
    STARTS = 4  # of the first noise that a prompt's images share
    REPLAY_ORDER = 5
    RENOISE_ORDER = 6
    RENOISE_DRAW = 7  # level and noise of a finished image
    PAIR_ORDER = 8
    PAIR_DRAW = 9  # level and noise of a pair
    REBUILT = 10  # noise of a trajectory rebuilt for D3PO
    TRAJECTORY_ORDER = 11  # pairs of whole trajectories, step by step
    DATA = 12  # rows of a data set
    CANDIDATE = 13  # the one from which a step rollout goes on
    JUDGED_NOISE = 14  # of the states that a step reward sees
    HELD_OUT = 15  # prompts on which a step reward is measured
    STEP_REWARD = 16  # its weights and the order of its pairs
    DISCRIMINATOR = 17  # its weights
    COMPLETION = 18  # noise of a half-drawn image that is finished
    DISCRIMINATOR_DRAW = 19  # level and noise under which it looks
    TEACHER_DRAW = 20  # level and noise under which a teacher looks
    VALUE = 21  # weights of the value baseline
    WALK_DRAW = 22  # choices of a walk through the reward
    WALK_NOISE = 23  # fresh noise on such a walk
    PRETRAINING = 24  # images of ReFL's pretraining term
    STEP_PAIR_ORDER = 25  # pairs of candidates of one step
    SHARED_LEVEL = 26  # level of all groups of a step
    EMPTY_PROMPT = 27  # images that are learned without their prompt
    OWN_WALK = 28  # noise of a walk on which a student meets its teachers
    TEACHER_OF_SAMPLE = 29  # which teacher it has, where several know its prompt
    BRAKE_DRAW = 30  # level and noise under which student and teacher are compared
    FAKE_DRAW = 31  # level and noise at which a network learns the student's pictures
    PROMPT_STEP = 32  # the one random step of a prompt's images


def generator(*key: int) -> torch.Generator:
    """A CPU generator for this key of integers, a Stream last; different keys give unrelated numbers."""
    mixed = 0
    for k in key:
        mixed = ((mixed ^ (int(k) & (2**64 - 1))) * _PRIMES[0] + _PRIMES[1]) & (2**64 - 1)
        mixed ^= mixed >> 29
        mixed = (mixed * _PRIMES[2]) & (2**64 - 1)
        mixed ^= mixed >> 32
    return torch.Generator().manual_seed(mixed & (2**63 - 1))
