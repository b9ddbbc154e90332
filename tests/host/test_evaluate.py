"""What demo and prove rest on: the evaluation is fair, and the demo runs from start to end."""
from __future__ import annotations

import os
import subprocess
import sys

from posttrain.tools.evaluate import evaluate, node, picture
from posttrain.tools.host import ROOT, Host
from posttrain.tools.rater import Rater, brightest
from posttrain.tools.training import with_defaults

FLOW = "flow (tiny SD3)"


def test_untrained_lora_changes_no_image(host, tmp_path):
    """Before and after are pairs: a LoRA that has learned nothing gives the same scores, image by image."""
    saved = host.run({
        "1": node("PTDemoWorld", which_model=FLOW, score="strict (all or nothing)"),
        "2": node("PTCreatePolicy", model=["1", 0], rank=4, alpha=4.0, layers="attention", seed=0, layer_pattern=""),
        "3": node("PTSaveLora", policy=["2", 0], file_name="evaluate/untrained")})
    assert saved.event == "success", saved.text
    found = evaluate(host, "evaluate/untrained.safetensors", FLOW, images=36)
    assert len(found.groups) == 18 and len(found.values("before", "strict")) == 36
    for score in ("strict", "dense"):
        assert found.values("before", score) == found.values("after", score)
        assert found.gain(score) == (0, 0)
        assert 0 < found.rate("before", score)[0] < 1
    picture(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_demo_runs_from_start_to_end(tmp_path):
    command = [sys.executable, "-m", "tools.demo", "--iterations", "2", "--images", "36", "--base", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"POSTTRAIN_CACHE": str(tmp_path)}, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in ("iteration   2 of 2", "reward", "KL", "left", "before:", "after:", "gain:"):
        assert shown in done.stdout
    for label, ending in (("LoRA:", ".safetensors"), ("picture:", ".png")):
        path = next(line.split(label)[1].strip() for line in done.stdout.splitlines() if label in line)
        assert path.endswith(ending) and os.path.getsize(path) > 5000


def test_host_tells_how_a_workflow_ended(host):
    """The harness itself: each way to end is seen as what it is."""
    empty = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    show = node("PreviewImage", images=["1", 0])
    good = host.run({"1": empty, "2": show})
    assert (good.event, good.counts["execution_success"], len(good.outputs["2"]["images"])) == ("success", 1, 1)
    assert host.run({"1": empty, "2": show}, client=False).event == "success"
    assert "width" in host.run({"1": node("EmptyImage", height=64, batch_size=1, color=0), "2": show}).text
    failed = host.run({"1": empty, "2": node("ImageFromBatch", image=["1", 0], batch_index=0, length=1),
                       "3": node("VAEDecode", samples=["1", 0], vae=["1", 0]), "4": node("PreviewImage", images=["3", 0])})
    assert failed.event in ("rejected", "error") and failed.text


def test_host_reports_a_server_that_cannot_start(tmp_path):
    import pytest
    from posttrain.tools.host import HostError

    with pytest.raises(HostError, match="unrecognized arguments: --no-such-option"):
        Host(tmp_path, "--no-such-option")


def policy_on_two_prompts(reward: dict) -> dict:
    """Evaluate Policy with an untrained policy, 2 prompts, 3 images of each."""
    return {
        "1": node("PTDemoWorld", which_model=FLOW, score="strict (all or nothing)"),
        "2": node("PTPromptList", text="a red ball\ntwo blue balls"),
        "3": node("PTEncodePrompts", prompts=["2", 0], clip=["1", 1]),
        "4": node("PTCreatePolicy", model=["1", 0]),
        "5": node("PTSampling", width=24, height=24, steps=3, images_per_prompt=3),
        "6": reward,
        "7": node("PTEvaluate", policy=["4", 0], prompts=["3", 0], vae=["1", 2], reward=["6", 0], sampling=["5", 0], compare=True)}


def test_evaluate_policy_compares_the_same_noise(host):
    reward = node("PTRewardJPEG", aim="small files (compressibility)", unit="kB", quality=95)
    result = host.run(with_defaults(policy_on_two_prompts(reward), host.object_info()))
    assert result.event == "success", result.text
    text, = result.outputs["7"]["text"]
    assert "on 6 images" in text and text.endswith("gain 0.000 ± 0.000")


def test_evaluate_policy_shows_a_person_both_at_once(host):
    """Before and after of a prompt on one sheet, so that nobody knows which is which and scores can be compared."""
    reward = node("PTRewardHuman", mode="best and worst", votes_name="evaluated", wait_minutes=0.0)
    with Rater(host, brightest) as rater:
        result = host.run(with_defaults(policy_on_two_prompts(reward), host.object_info()))
    assert result.event == "success", result.text
    question, = rater.seen
    assert [sorted(sheet["rows"]) for sheet in question["sheets"]] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert "on 6 images, before training" in result.outputs["7"]["text"][0]
