"""The templates, the nodes and the policy on other ComfyUIs than the pinned one: the oldest that is promised, and every
checkout in the folder ``hosts`` of the cache."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from posttrain.tools.hosts import OLDER, beside, version

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("tests/host/test_boot.py", "tests/host/test_training_templates.py", "tests/host/test_reward_templates.py",
         "tests/unit/toy/test_models.py", "tests/unit/nodes/test_host_version.py", "tests/simulated/test_dynamic.py",
         *(f"tests/unit/trainers/{part}.py" for part in ("policy/test_network", "policy/test_policy", "sampling/test_rollout")))
AT_LEAST = 200  # tests in them
PINNED = "0.3.75"
OTHERS = () if os.environ.get("POSTTRAIN_OTHER_HOST") else (*OLDER, *map(str, beside()))


def test_this_run_is_on_the_host_that_was_asked_for():
    assert version(Path(os.environ["COMFYUI_DIR"])) == os.environ.get("POSTTRAIN_OTHER_HOST", PINNED)


@pytest.mark.parametrize("asked", OTHERS, ids=[f"ComfyUI {one if one in OLDER else version(Path(one))}" for one in OTHERS])
def test_the_pack_works_there_as_well(asked):
    command = (sys.executable, "develop.py", "test", "--comfyui", asked, "-q", "-p", "no:cacheprovider", *PARTS)
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert f"On ComfyUI {asked if asked in OLDER else version(Path(asked))}, " in run.stdout
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > AT_LEAST
