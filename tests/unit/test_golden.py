"""No golden number lies there for nothing: each is read by a test."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys

from posttrain.tests.unit.golden_files import FOLDER, places

ROOT = FOLDER.parent.parent
NOT_OURS = {
    "15 levels.out.flow_factory*": "another program's reading of the same levels, which is 7 or 8 of them",
    "10a b.*": "with a KL to the model before training, of which the trial of FDFO, no trainer of the pack, has none",
    "10a in.base_v": "the same",
    "10a const.kl_weight": "the same",
    "10b const.shift": "of the schedule, whose levels are given",
    "10b in.timesteps": "the same",
    "09a hard.*": "the official temperature 0, whose pool of worse images is always empty by a fault; ours is the even mean",
    "16 anneal.out.weight_base": "the one end, where nothing is mixed",
    "16 anneal.out.weight_draft": "the other end",
    "16 const.num_steps": "of the sampling, of which the loss sees the predictions only",
    "16 const.guidance_scale": "the same",
    "12b out.advantages_per_prompt_globalstd1": "divided by the spread of a step over all prompts; ours is that of the whole batch",
    "13 out.table*": "weights of one schedule, written down; ours are reckoned for any",
    "13 out.batch_weight": "the mean of the batch's weights; ours is that of the steps that may be drawn",
    "13 out.loss": "the loss by those two",
    "13 grad.policy_v": "the same",
    "14c several.*": "advantages of several rewards by the batch's spread; ours of several, GDPO, takes the group's",
    "14c step3.*": "the likelihood of the last step, which has no noise; the official trainer does not use it either",
    "14c dmd_plain.*": "the brake without its measure, which no official configuration has",
    "14d consistency.*": "a second loss of the fake score over sub-intervals, which the part of RTDMD that is here has none of",
    "14d const.consistency_weight": "the same",
    "04d in.latents": "the noised input, of which the loss sees the network's answers only",
    "04d in.timesteps": "the noised input, of which the loss sees the network's answers only",
    "07d picktrain.neg1.*": "the other images of the batch as further losers, which no reward of ours is trained with",
}


def test_every_golden_number_is_read_by_a_test(tmp_path):
    """The tests that read them run once more, in a process that writes down what they read."""
    readers = [str(path) for path in (ROOT / "tests" / "unit").rglob("test_*.py") if "golden(" in path.read_text("utf-8")]
    told = tmp_path / "read"
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *readers)
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"POSTTRAIN_GOLDEN_READS": str(told)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    unread = places() - set(told.read_text("utf-8").splitlines())
    matched = {pattern: fnmatch.filter(unread, pattern) for pattern in NOT_OURS}
    assert all(matched.values()), "a pattern of NOT_OURS that nothing needs is taken out"
    assert unread == {place for found in matched.values() for place in found} and len(places()) > 800
