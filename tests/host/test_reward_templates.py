"""The shipped templates that look at rewards, run as they are through the real server."""
from __future__ import annotations

import numpy
from PIL import Image
from posttrain.tests.host.test_training_templates import OWN, TRAINING
from posttrain.tools.evaluate import column
from posttrain.tools.training import WORKFLOWS, load_workflow, only


def ran(host, name: str, changes: dict | None = None):
    """(graph, what the nodes show) of a template that ran without a fault."""
    graph = load_workflow(name, changes)
    result = host.run(graph)
    assert result.event == "success", result.text
    for node_id in (node_id for node_id, output in result.outputs.items() if "images" in output):
        assert all(numpy.ptp(image, axis=(0, 1)).min() > 100 for image in shown(result.outputs, node_id, host)), "one colour"
    return graph, result.outputs


def shown(outputs: dict, node_id: str, host) -> list[numpy.ndarray]:
    files = [host.base / image["type"] / image["subfolder"] / image["filename"] for image in outputs[node_id]["images"]]
    return [numpy.asarray(Image.open(file).convert("RGB"), dtype=float) for file in files]


def test_every_template_is_run_here_or_among_those_that_train():
    here = {"score_a_folder", "which_reward_agrees_with_me", "ensemble_with_veto"}
    assert here | set(TRAINING) | set(OWN) == {path.stem for path in WORKFLOWS.glob("*.json")}


def test_score_a_folder_shows_the_best_and_the_worst(host):
    graph, outputs = ran(host, "score_a_folder", {"PTScoreFolder.shown": 3})
    headline, table, about = outputs[only(graph, "PTScoreFolder")]["text"]
    scores = column(table)
    assert len(scores) == 48 and max(scores) > min(scores) and "mean" in headline and "colourfulness" in about
    # the pictures stand in dark squares, so the mean saturation orders them as the reward does
    best, worst = (shown(outputs, place, host) for place in ("4", "5"))
    assert len(best) == len(worst) == 3
    spread = [numpy.mean([image[:280].max(2) - image[:280].min(2) for image in images]) for images in (best, worst)]
    assert spread[0] > spread[1]


def test_the_checker_agrees_with_the_demos_choices_and_colours_do_not(host):
    graph, outputs = ran(host, "which_reward_agrees_with_me")
    answer, matrix = outputs[only(graph, "PTRewardAgreement")]["text"]
    assert len(matrix.splitlines()) == 5
    first, *others = answer.splitlines()[1:5]
    assert float(first.split(": ")[1].split("%")[0]) > 90 and "of 60 pairs" in first and "may be chance" not in first
    assert all("may be chance" in line or "prefers the other image" in line for line in others)


def test_a_gate_puts_its_pictures_behind_all_others_of_their_prompt(host):
    graph, outputs = ran(host, "ensemble_with_veto", {"PTSampling.images_per_prompt": 8})
    graph["table"] = {"class_type": "PTScoreImages", "inputs": {
        "images": ["5", 1], "reward": ["11", 0], "prompt": "a red ball", "prompt_mode": "one prompt for all images",
        "prompts": ["1", 3]}}
    result = host.run(graph)
    assert result.event == "success", result.text
    head, *lines = [line.split("\t") for line in result.outputs["table"]["text"][1].splitlines()]
    score, gate = (head.index(name) for name in ("score", next(n for n in head[::-1] if "brightness" in n and "normal" in n)))
    open_, shut = ([float(line[score]) for line in lines if float(line[gate]) == value] for value in (1, 0))
    assert open_ and shut and min(open_) > max(shut)
    assert "monitor" in outputs[only(graph, "PTRewardEnsemble")]["text"][0]
