"""A method is read in three files: its own, its loss, and the one of engine/ that it names."""
from __future__ import annotations

import pytest
from posttrain.tools.trace import STEPS, divided, files_of


@pytest.mark.parametrize("method, engine", [("flow_grpo", "replay"), ("diffusion_dpo", "renoise"), ("draft", "reward_walk")])
def test_a_step_of_it_runs_through_three_files_of_its_own(method, engine):
    own, shared = divided(files_of(STEPS[method]()))
    assert set(own) == {f"trainers/{method}.py", f"trainers/losses/{method}.py", f"trainers/engine/{engine}.py"}
    assert "trainers/policy/" in shared and "trainers/engine/" in shared  # the watch saw the network and the optimizer
