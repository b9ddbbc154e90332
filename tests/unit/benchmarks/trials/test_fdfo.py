"""The trial of FDFO: its loss and its pairs' ways against the official code's numbers, and that it runs."""

from __future__ import annotations

import sys

import pytest
import torch
from posttrain.tools.host import ROOT

sys.path.append(str(ROOT))  # last, so that ComfyUI's nodes.py is not hidden
from benchmarks.trials import fdfo


@pytest.mark.parametrize("case", ["a.", "tight.", "on_policy."])
def test_golden_loss(golden, close, case):
    file = golden("10a").view(case)
    assert file.const("norm_eps") == pytest.approx(fdfo.LEAST)
    ends, rewards = file["in.x_end"], file["in.rewards"]
    close(fdfo.half_difference(ends), file["out.end_half_difference"])
    close(fdfo.half_difference(rewards), file["out.reward_half_difference"])
    n, v = fdfo.direction(ends), (file["in.rollout_v" if case == "on_policy." else "in.policy_v"]).clone().requires_grad_()
    clip = file.const("tight_clip_range" if case == "tight." else "clip_range")
    loss, q = fdfo.fdfo_loss(v, file["in.rollout_v"], n, fdfo.half_difference(rewards), clip)
    close(q, file["out.ratio"])
    close(q.log() + file["out.log_score_at_rollout"], file["out.log_score"])
    close(loss, file["out.loss"])
    close(loss, file["out.per_sample"].mean())
    if case == "a.":
        close(n * file["out.mean_square"].add(fdfo.LEAST).reshape(-1, 1, 1, 1), file["out.end_half_difference"])
        close(file["in.rollout_v"] - n, file["out.target_v"])
    loss.backward()
    close(v.grad, file["grad.policy_v"])


@pytest.mark.parametrize("case", ["raw.", "raw_strong.", "no_churn."])
def test_golden_ways_of_pairs(golden, close, case):
    file = golden("10b").view(case)
    sigmas, churns, reached = file["in.sigmas"].double(), file["out.churn_first_is_prior"].double(), file["out.xs"]
    assert torch.equal(churns, churns[:1].expand_as(churns)) and len(sigmas) == file.const("num_steps") + 1
    if case != "no_churn.":
        assert file.const(f"churn_weight_{case[:-1]}") == pytest.approx(float(churns[0, 0]))
    x = fdfo.churned(file["in.x_start"].repeat_interleave(2, 0), 1.0, float(churns[0, 0]), file["in.prior_noise"])
    close(x, reached[0])
    for k, (v, noise) in enumerate(zip(file["in.velocity"], file["in.step_noise"])):
        x = fdfo.stepped(x, v, sigmas[k], sigmas[k + 1], float(churns[0, k + 1]), noise)
        close(x, reached[k + 1])


@pytest.mark.parametrize("method", ["fdfo", "flow_grpo", "nft"])
def test_a_course_is_run_and_measured(monkeypatch, capsys, method):
    smaller = {"images_per_prompt": 1, "prompts_per_iteration": 2, "steps": 4}
    monkeypatch.setattr(fdfo, "HELD_OUT", fdfo.HELD_OUT | smaller)
    usual = fdfo.sampling
    monkeypatch.setattr(
        fdfo, "sampling", lambda **own: usual(**own | smaller | {"images_per_prompt": 2, "prompts_per_iteration": 3})
    )
    assert fdfo.main([method, "--steps", "4", "--evaluations", "1"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{method}: 0 iterations, 0.000 M evaluations") and last.startswith(f"{method}: 1 iterations, ")
    assert last.endswith("% right")
