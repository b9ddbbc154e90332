"""Wrong input in a real ComfyUI: an error on the node that says what is wrong and what to do."""
from __future__ import annotations

import json

import pytest
from posttrain.tests.host.lab_graph import node
from posttrain.tests.host.spine_graph import same, spine, weights
from posttrain.tools.graphs import swap_reward


def failing_node(result) -> str:
    return result.error.get("node_type", "")


@pytest.mark.parametrize("changes, words", [
    ({"4.transition": "deterministic"}, ["no step was random", "noise level"]),
    ({"4.transition": "ddim", "4.noise_level": 0.0}, ["no step was random"]),
    ({"4.steps": 1}, ["leaves no step to train", "more steps"]),
    ({"1.which_model": "eps (tiny SD1.5)", "4.steps": 1500}, ["scheduler", "do not decrease", "choose another"]),
    ({"1.which_model": "eps (tiny SD1.5)", "4.transition": "flow_sde"}, ["transition", "is for flow models", "choose ddim"]),
    ({"4.transition": "ddim", "4.noise_level": 1.5}, ["noise level", "outside 0..1"]),
    ({"4.transition": "flow_cps", "4.noise_level": 0.8, "5.trust": "guard", "5.clip_range": 0.0}, ["'guard'", "flow_sde"]),
    ({"4.images_per_prompt": 1}, ["one image", "images per prompt"]),
    ({"3.rank": 1000}, ["rank", "larger than layer"]),
    ({"3.layer_pattern": "no such layer"}, ["no trainable layer", "another pattern"]),
    ({"5.clip_range": 0.9, "5.beta": -0.0, "4.first_noisy_step": 9}, ["first noisy step"]),
    ({"6.run_name": "../outside"}, ["run"]),
    ({"6.run_name": ""}, ["run"]),
    ({"12.file_name": "../outside"}, ["file name"]),
])
def test_settings_that_cannot_be_are_refused_in_words(host, changes, words):
    result = host.run(spine("bad settings", 1, **{"6.when_run_exists": "start over", **changes}))
    assert result.event in ("error", "rejected"), result.event
    for word in words:
        assert word in result.text, result.text


@pytest.mark.parametrize("transition, words", [("flow_sde", ["is for flow models", "a v model", "choose ddim"]), ("auto", [])])
def test_a_v_model_refuses_flow_steps_and_trains_with_its_own(host, transition, words):
    """The stock node turns the demo model into one that predicts v."""
    graph = spine(f"v model {transition}", 1, **{"1.which_model": "eps (tiny SD1.5)", "4.transition": transition})
    graph["40"] = node("ModelSamplingDiscrete", model=["1", 0], sampling="v_prediction", zsnr=False)
    graph["3"]["inputs"]["model"] = ["40", 0]
    result = host.run(graph)
    assert result.event == ("error" if words else "success"), result.text
    assert all(word in result.text for word in words), result.text


@pytest.mark.parametrize("text, words", [("", ["no prompt", "at least one line"]), ("\n  \n", ["no prompt"])])
def test_an_empty_prompt_list_is_refused(host, text, words):
    graph = {"1": {"class_type": "PTDemoWorld", "inputs": spine("x")["1"]["inputs"]},
             "2": {"class_type": "PTPromptList", "inputs": {"text": text}},
             "3": {"class_type": "PTEncodePrompts", "inputs": {"prompts": ["2", 0], "clip": ["1", 1], "negative": ""}},
             "4": {"class_type": "PTRollout", "inputs": {
                 "policy": ["5", 0], "prompts": ["3", 0], "vae": ["1", 2], "sampling": ["6", 0], "iteration": 0}},
             "5": spine("x")["3"], "6": spine("x")["4"], "7": {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}}}
    result = host.run(graph)
    assert result.event == "error" and failing_node(result) == "PTPromptList"
    assert all(word in result.text for word in words), result.text


def prompt_file_graph(name: str) -> dict:
    return {"1": {"class_type": "PTDemoWorld", "inputs": spine("x")["1"]["inputs"]},
            "2": {"class_type": "PTPromptFile", "inputs": {"file": name, "limit": 3}},
            "3": {"class_type": "PTEncodePrompts", "inputs": {"prompts": ["2", 0], "clip": ["1", 1], "negative": ""}},
            "4": {"class_type": "PTRollout", "inputs": {
                "policy": ["5", 0], "prompts": ["3", 0], "vae": ["1", 2], "sampling": ["6", 0], "iteration": 0}},
            "5": spine("x")["3"], "6": spine("x")["4"], "7": {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}}}


@pytest.mark.parametrize("name, content, words", [
    ("missing.txt", None, ["does not exist", "input folder"]),
    ("latin.txt", "caf\xe9".encode("latin-1"), ["not UTF-8"]),
    ("records.jsonl", b'{"prompt": "a red ball"}\n\nnot json\n', ["line 3", "JSON"]),
    ("empty.txt", b"\n\n", ["no prompt"]),
])
def test_prompt_files_that_cannot_be_read_are_named(host, name, content, words):
    if content is not None:
        (host.base / "input" / name).write_bytes(content)
    result = host.run(prompt_file_graph(name))
    assert result.event == "error" and failing_node(result) == "PTPromptFile"
    assert all(word in result.text for word in words), result.text


def test_a_file_of_100000_lines_is_read_up_to_the_limit_and_says_so(host):
    (host.base / "input" / "many.txt").write_text("\n\n".join(f"a red ball {i}" for i in range(100_000)), encoding="utf-8")
    result = host.run(prompt_file_graph("many.txt"))
    assert result.event == "success", result.text
    (text,) = result.outputs["2"]["text"]
    assert "first 3 of 100,000 prompts" in text and "raise 'limit'" in text


def test_a_guidance_needs_encoded_prompts_and_says_so(host):
    graph = spine("unencoded", 1)
    graph["7"]["inputs"]["prompts"] = ["1", 3]
    result = host.run(graph)
    assert result.event == "error" and "Encode Prompts" in result.text


def run_folder(host, name: str):
    return host.base / "output" / "posttrain" / f"spine {name}"


def test_a_reward_that_is_not_a_number_stops_the_run_with_its_state_saved(host):
    graph = spine("never a number", 9)
    graph["50"] = {"class_type": "PTRewardFormula", "inputs": {"formula": "log(a - 10)", "a": ["1", 5]}}
    graph["8"]["inputs"]["reward"] = ["50", 0]
    result = host.run(graph)
    assert result.event == "error" and result.error["node_id"] == "11"
    for words in ("3 updates in a row were skipped", "not a number", "Look at the reward", "queue again"):
        assert words in result.text, result.text
    folder = run_folder(host, "never a number")
    points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [point["skipped_updates_in_a_row"] for point in points] == [1, 2, 3] and points[-1]["failed"] == 8
    assert (folder / "checkpoints" / "state_000003.safetensors").is_file()


def test_a_checkpoint_cut_in_half_costs_one_iteration_and_is_told(host):
    assert host.run(spine("cut", 1)).event == "success"
    assert host.run(spine("cut", 2)).event == "success"
    newest = run_folder(host, "cut") / "checkpoints" / "state_000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:newest.stat().st_size // 2])
    result = host.run(spine("cut", 3), keep=True)
    assert result.event == "success", result.text
    told = [message["data"]["text"] for _, message in result.messages if message["type"] == "posttrain.message"]
    assert any("state_000002.safetensors cannot be read" in text and "the one before it is used" in text for text in told)
    assert host.run(spine("whole", 3)).event == "success"
    assert same(weights(host, "cut"), weights(host, "whole"))


def test_a_state_that_no_disk_takes_is_an_error_on_the_node_and_not_lost(host):
    checkpoints = run_folder(host, "full") / "checkpoints"
    checkpoints.parent.mkdir(parents=True)
    checkpoints.write_text("a file where the folder should be")
    result = host.run(spine("full", 2))
    assert result.event == "error" and result.error["node_id"] == "11"
    for words in ("iteration 2 could not be saved", "kept in memory", "make room and queue again"):
        assert words in result.text, result.text
    checkpoints.unlink()
    again = host.run(spine("full", 2))
    assert again.event == "success", again.text
    assert again.counts.get("posttrain.iteration", 0) == 0, "nothing is trained twice"
    assert (checkpoints / "state_000002.safetensors").is_file()


def test_settings_changed_under_the_same_name_are_a_question(host):
    assert host.run(spine("changed", 1)).event == "success"
    result = host.run(spine("changed", 2, **{"5.learning_rate": 7e-4}))
    assert result.event == "error" and "learning_rate" in result.text
    assert host.run(spine("changed", 2, **{"5.learning_rate": 7e-4,
                                          "6.when_run_exists": "continue with changed settings"})).event == "success"


def test_latents_of_another_model_are_refused(host):
    graph = {"1": spine("x")["1"], "2": {"class_type": "EmptySD3LatentImage", "inputs": {
                 "width": 64, "height": 64, "batch_size": 4}},
             "3": spine("x")["3"], "4": {"class_type": "PTEncodePrompts", "inputs": {
                 "prompts": ["1", 3], "clip": ["1", 1], "negative": ""}},
             "5": {"class_type": "PTRolloutFromLatents", "inputs": {
                 "policy": ["3", 0], "latent": ["2", 0], "prompts": ["4", 0], "vae": ["1", 2], "prompt_number": 1,
                 "guidance": 1.0}},
             "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 1]}}}
    result = host.run(graph)
    assert result.event == "error" and "16 channels" in result.text


def with_reward(run: str, judges_by: str, iterations: int) -> dict:
    graph = spine(run, iterations)
    swap_reward(graph, node("LabReward", judges_by=judges_by))
    return graph


def metrics(host, run: str) -> list[dict]:
    path = host.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def unchanged(host, run: str) -> bool:
    return not any(bool(v.any()) for k, v in weights(host, run).items() if "lora_B" in k)


@pytest.mark.parametrize("judges_by", ["not a number", "infinite"])
def test_a_reward_that_never_scores_ends_the_run_in_words_and_leaves_the_policy(host, judges_by):
    """Three iterations without a score end the run; the saved policy is as it was, and goes on with a sound reward."""
    run = f"reward {judges_by}"
    result = host.run(with_reward(run, judges_by, 5))
    assert result.event == "error" and "3 updates in a row were skipped" in result.text, result.text
    lines = metrics(host, run)
    assert [line["failed"] for line in lines] == [8, 8, 8] and not sum(line["updates"] for line in lines)
    kept = host.run(with_reward(run, judges_by, 3))
    assert kept.event == "success" and unchanged(host, run), kept.text
    sound = with_reward(run, "light or dark", 4)
    sound["6"]["inputs"]["when_run_exists"] = "continue with changed settings"
    assert host.run(sound).event == "success"
    assert metrics(host, run)[-1]["updates"] == 1 and not unchanged(host, run)


def test_images_that_could_not_be_scored_are_counted_and_the_others_train(host):
    result = host.run(with_reward("reward half", "half not a number", 1))
    line, = metrics(host, "reward half")
    assert result.event == "success" and line["failed"] == 4 and line["used"] == 4 and line["updates"] == 1


def test_equal_rewards_teach_nothing_and_are_no_fault(host):
    result = host.run(with_reward("reward equal", "all equal", 4))
    lines = metrics(host, "reward equal")
    assert result.event == "success" and len(lines) == 4 and unchanged(host, "reward equal")
    assert all(line["zero_spread_groups"] == 2 and not line["updates"] for line in lines)


OTHERS = {
    "PTDDPO": {"learning_rate": 1e-3, "updates_per_rollout": 1, "clip_range": 1e-4, "watch_kl": False},
    "PTNFT": {"learning_rate": 1e-3, "updates_per_rollout": 1, "beta": 1.0, "levels": 1, "kl_weight": 0.0, "old_start": 0,
              "old_rate": 0.0, "old_ceiling": 0.5},
    "PTMaPO": {"learning_rate": 1e-3, "updates_per_rollout": 1, "beta": 0.1, "levels": 1, "safeguard": False, "winner_keeps": 0.9},
    "PTKTO": {"learning_rate": 1e-3, "updates_per_rollout": 1, "beta": 0.0, "levels": 1, "balance": True}}
FEEDBACK = {"PTMaPO": node("PTPreferences", scores=["8", 0], pairs="all pairs", least_margin=0.0, threshold=0.5),
            "PTKTO": node("PTLabels", scores=["8", 0], rule="group mean", threshold=0.5)}


def with_trainer(graph: dict, trainer: str) -> dict:
    graph["5"] = node(trainer, **OTHERS[trainer])
    return graph | ({"9": FEEDBACK[trainer]} if trainer in FEEDBACK else {})


@pytest.mark.parametrize("judges_by, words", [("not a number", "3 updates in a row were skipped"), ("all equal", "")])
@pytest.mark.parametrize("trainer", OTHERS)
def test_every_kind_of_trainer_leaves_the_policy_where_there_is_nothing_to_learn(host, trainer, judges_by, words):
    run = f"{trainer} {judges_by}"
    result = host.run(with_trainer(with_reward(run, judges_by, 4), trainer))
    assert result.event == ("error" if words else "success") and words in result.text, result.text
    lines = metrics(host, run)
    assert len(lines) == (3 if words else 4) and not sum(line["updates"] for line in lines)
    assert host.run(with_trainer(with_reward(run, judges_by, len(lines)), trainer)).event == "success"
    assert unchanged(host, run)


@pytest.mark.parametrize("trainer, words", [
    ("PTDDPO", "images per prompt"), ("PTNFT", "images per prompt"), ("PTMaPO", "a pair needs two of the same prompt"),
    ("PTKTO", "or choose the rule 'threshold'")])
def test_a_group_of_one_is_refused_where_images_are_compared(host, trainer, words):
    result = host.run(with_trainer(spine(f"one each {trainer}", 1, **{"4.images_per_prompt": 1}), trainer))
    assert result.event == "error" and "every prompt has one image" in result.text and words in result.text, result.text
