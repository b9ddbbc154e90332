"""Which prompts an iteration draws."""

from __future__ import annotations

from dataclasses import replace

import torch
from posttrain.tests.unit.trainers.rollouts import SMALL
from posttrain.trainers.sampling.draws import chosen_prompts


def test_all_prompts_are_used_before_one_comes_again():
    settings = replace(SMALL, prompts_per_iteration=4)
    seen = torch.cat([chosen_prompts(12, settings, i) for i in range(3)])
    assert sorted(seen.tolist()) == list(range(12))
