"""Training from preferences in a real ComfyUI: online from scores, offline from a folder of true and wrong pictures."""
from __future__ import annotations

import json

import numpy
import pytest
from PIL import Image
from posttrain.tests.host.spine_graph import CLIP, MODEL, VAE, latents, sampled, spine, weights
from posttrain.tools import pack

BESIDE = "beside the noise (InstructPix2Pix, Flux Canny ...)"
DPO = {"learning_rate": 1e-3, "updates_per_rollout": 1, "beta": 0.0, "levels": 2, "safeguard": True, "winner_keeps": 0.9}
MAPO = {"learning_rate": 1e-3, "updates_per_rollout": 1, "beta": 0.1, "levels": 2, "safeguard": False, "winner_keeps": 0.9}
KTO = {"learning_rate": 1e-3, "updates_per_rollout": 1, "beta": 0.0, "levels": 2, "balance": True}
D3PO = {"learning_rate": 1e-3, "updates_per_rollout": 1, "beta": 0.1, "clip_range": 0.1, "rebuilt_steps": 4}
PAIRS = {"class_type": "PTPreferences", "inputs": {"scores": ["8", 0], "pairs": "all pairs", "least_margin": 0.0,
                                                   "threshold": 0.5}}
THUMBS = {"class_type": "PTLabels", "inputs": {"scores": ["8", 0], "rule": "group mean", "threshold": 0.5}}


def online(run: str, trainer: str, settings: dict, feedback: dict, iterations: int = 2) -> dict:
    """The shipped loop with another trainer, and preferences in the place of advantages."""
    graph = spine(run, iterations)
    graph["5"], graph["9"] = {"class_type": trainer, "inputs": settings}, feedback
    return graph


def told(result, node: str) -> list[str]:
    """What a node showed, each time that it ran."""
    return [text for _, message in result.messages if message["type"] == "executed" and message["data"]["node"] == node
            for text in (message["data"]["output"] or {}).get("text", [])]


def metrics(host, run: str) -> list[dict]:
    path = host.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("trainer, settings, feedback", [
    ("PTDiffusionDPO", DPO, PAIRS), ("PTMaPO", MAPO, PAIRS), ("PTKTO", KTO, THUMBS), ("PTD3PO", D3PO, PAIRS)])
def test_online_preferences_are_one_more_wiring_of_the_loop(host, trainer, settings, feedback):
    run = f"online {trainer}"
    result = host.run(online(run, trainer, settings, feedback), keep=True)
    assert result.event == "success", result.text
    lines = metrics(host, run)
    assert [line["iteration"] for line in lines] == [1, 2] and lines[0]["reward_mean"] > 0
    assert any(line["updates"] for line in lines), lines
    assert any(bool(v.any()) for k, v in weights(host, run).items() if "lora_B" in k)
    assert told(result, "9")[-1].endswith("say nothing" if trainer == "PTKTO" else "prompts gave none")


def test_the_wrong_feedback_is_an_error_on_train_step(host):
    for feedback, words in ((spine("x")["9"], "pairs of images"), (THUMBS, "Preferences")):
        result = host.run(online("wrong feedback", "PTDiffusionDPO", DPO, feedback))
        assert result.event == "error" and words in result.text, result.text
    result = host.run(online("wrong feedback", "PTKTO", KTO, PAIRS))
    assert result.event == "error" and "Thumbs" in result.text


def pictures(folder, count: int = 12, sides=("win", "lose")):
    """True pictures of the demo world in one folder, wrong ones of the same captions in the other."""
    world = pack.module("toy.world")
    random = numpy.random.default_rng(0)
    specs = world.split(held_out=False)[::6][:count]
    shown = (specs, [world.wrong(spec, random) for spec in specs])
    for seed, (side, chosen) in enumerate(zip(sides, shown)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(world.render(chosen, seed)):
            Image.fromarray((pixels * 255).round().astype("uint8")).save(folder / side / f"{i:03}.png")
            (folder / side / f"{i:03}.txt").write_text(world.caption(specs[i]), encoding="utf-8")
    return folder


def offline(run: str, source: dict, trainer: str, settings: dict, iterations: int = 2, pairs: int = 4) -> dict:
    """Folder or file -> encoded once -> some in each iteration -> Train Step, in the same loop."""
    graph = {key: node for key, node in spine(run, iterations).items() if key in ("1", "3", "6", "10", "11", "12")}
    graph |= {
        "5": {"class_type": trainer, "inputs": settings}, "20": source,
        "21": {"class_type": "PTEncodePairs", "inputs": {
            "pairs": ["20", 0], "policy": ["3", 0], "vae": VAE, "clip": CLIP, "width": 24, "height": 24,
            "size_rule": "crop to fill"}},
        "22": {"class_type": "PTPairBatch", "inputs": {"pairs": ["21", 0], "policy": ["6", 1], "iteration": ["6", 2],
                                                       "pairs_per_iteration": pairs, "batch_size": 8, "seed": 0}}}
    graph["10"]["inputs"] |= {"rollout": ["22", 0], "feedback": ["22", 1]}
    if "images" in graph["11"]["inputs"]:
        graph["11"]["inputs"]["images"] = ["22", 2]
    return graph


def edited(folder, count: int = 6):
    """Edits of the demo world: the picture before, painted as told, and painted otherwise."""
    edits = pack.module("toy.edits")
    random = numpy.random.default_rng(0)
    for i in range(count):
        first, second = edits.PAIRS[i]
        balls = edits.balls_with_one(first, random)
        wrong = edits.wrongly_painted(balls, first, second, random)
        scenes = {"source": balls, "win": edits.painted(balls, first, second), "lose": wrong}
        for side, scene in scenes.items():
            (folder / side).mkdir(parents=True, exist_ok=True)
            (pixels,) = edits.render([scene], i)
            Image.fromarray((pixels * 255).round().astype("uint8")).save(folder / side / f"{i:03}.png")
        (folder / f"{i:03}.txt").write_text(edits.instruction(first, second), encoding="utf-8")
    return folder


def of_edits(graph: dict) -> dict:
    """The same on the demo's model that edits, its pairs encoded with their pictures."""
    graph["1"] = {"class_type": "PTDemoEdits", "inputs": {"score": "dense (partial credit)"}}
    way = {"picture_as": BESIDE, "megapixels": 0.0, "negative": ""}
    graph["21"] = {"class_type": "PTEncodeEditPairs", "inputs": graph["21"]["inputs"] | way}
    return graph


@pytest.mark.parametrize("trainer, settings, sides", [
    ("PTDiffusionDPO", DPO, ("win", "lose")), ("PTMaPO", MAPO, ("win", "lose")), ("PTD3PO", D3PO, ("win", "lose")),
    ("PTKTO", KTO, ("like", "dislike"))])
def test_pairs_and_thumbs_of_edits_from_a_folder(host, trainer, settings, sides):
    folder = edited(host.base / "input" / f"edited for {trainer}")
    for old, new in zip(("win", "lose"), sides):
        (folder / old).rename(folder / new)
    run = f"edits {trainer}"
    result = host.run(of_edits(offline(run, folder_node(folder), trainer, settings)))
    assert result.event == "success", result.text
    assert metrics(host, run)[1]["updates"] == 1
    assert any(bool(value.any()) for key, value in weights(host, run).items() if "lora_B" in key)


def test_pairs_of_edits_and_others_have_a_node_each(host):
    plain, folder = pictures(host.base / "input" / "not of edits", 4), edited(host.base / "input" / "of edits")
    result = host.run(offline("left out", folder_node(folder), "PTDiffusionDPO", DPO))
    assert result.event == "error" and "encode them with Encode Edit Pairs" in result.text
    result = host.run(of_edits(offline("nothing there", folder_node(plain), "PTDiffusionDPO", DPO)))
    assert result.event == "error" and "a folder 'source' beside win and lose" in result.text


def folder_node(path) -> dict:
    return {"class_type": "PTPairsFolder", "inputs": {"folder": str(path), "limit": 1000, "prompt": ""}}


def file_node(path) -> dict:
    return {"class_type": "PTPairsFile", "inputs": {"file": str(path), "limit": 1000, "prompt": ""}}


@pytest.mark.parametrize("trainer, settings", [("PTDiffusionDPO", DPO), ("PTMaPO", MAPO), ("PTD3PO", D3PO)])
def test_offline_training_from_a_folder_of_pairs(host, trainer, settings):
    pictures(host.base / "input" / "pairs")
    (host.base / "input" / "pairs" / "win" / "005.txt").unlink()
    (host.base / "input" / "pairs" / "lose" / "005.txt").unlink()
    run = f"offline {trainer}"
    result = host.run(offline(run, folder_node("pairs"), trainer, settings))
    assert result.event == "success", result.text
    lines = metrics(host, run)
    assert [line["pairs"] for line in lines] == [4, 4] and lines[1]["updates"] == 1
    assert lines[1]["epochs"] == pytest.approx(8 / 11)
    texts = "\n".join(t for shown in result.outputs.values() for t in shown.get("text", []))
    assert "11 pairs" in texts and "005: it has no caption" in texts and "MB of latents on the disk" in texts


def test_offline_training_is_resumed_as_if_never_stopped(host):
    pictures(host.base / "input" / "resumed_pairs")
    node = folder_node("resumed_pairs")
    for run, iterations in (("offline straight", 3), ("offline resumed", 1), ("offline resumed", 3)):
        result = host.run(offline(run, node, "PTDiffusionDPO", DPO, iterations))
        assert result.event == "success", result.text
    straight, resumed = weights(host, "offline straight"), weights(host, "offline resumed")
    assert all(bool((straight[k] == resumed[k]).all()) for k in straight)


def test_thumbs_from_a_folder_train_kto_and_the_lora_changes_pictures(host):
    pictures(host.base / "input" / "thumbs", sides=("like", "dislike"))
    graph = offline("offline thumbs", folder_node("thumbs"), "PTKTO", {**KTO, "learning_rate": 0.02}, 3, pairs=16)
    result = host.run(graph)
    assert result.event == "success", result.text
    lines = metrics(host, "offline thumbs")
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-4) and lines[2]["winner_change"] != 0
    loader = {"1": graph["1"], "2": {"class_type": "LoraLoaderModelOnly", "inputs": {
        "model": MODEL, "lora_name": "tests/offline thumbs.safetensors", "strength_model": 1.0}}}
    sampled(loader, ["2", 0], "thumbs_after", 30)
    sampled(loader, MODEL, "thumbs_before", 40)
    assert host.run(loader).event == "success"
    assert (latents(host, "thumbs_after") - latents(host, "thumbs_before")).abs().max() > 1e-2


def test_a_file_of_pairs_trains_too(host):
    folder = pictures(host.base / "input" / "listed", 4)
    rows = [{"prompt": (folder / "win" / f"{i:03}.txt").read_text(), "chosen": f"win/{i:03}.png",
             "rejected": f"lose/{i:03}.png"} for i in range(4)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = host.run(offline("offline file", file_node(folder / "pairs.jsonl"), "PTDiffusionDPO", DPO))
    assert result.event == "success", result.text


@pytest.mark.parametrize("source, words", [
    (folder_node("no_such_pairs"), ["folder", "no_such_pairs does not exist", "input folder"]),
    (folder_node("empty_pairs"), ["empty_pairs: it holds no pair"]),
    (folder_node("half_pairs"), ["no folder 'lose' beside 'win'"]),
    (file_node("missing.jsonl"), ["missing.jsonl does not exist"]),
    (file_node("broken.jsonl"), ["broken.jsonl", "line 1: it is not JSON"]),
    (file_node("broken.parquet"), ["broken.parquet"])])
def test_data_that_cannot_be_used_is_an_error_on_its_node(host, source, words):
    base = host.base / "input"
    (base / "empty_pairs").mkdir(exist_ok=True)
    (base / "half_pairs" / "win").mkdir(parents=True, exist_ok=True)
    (base / "broken.jsonl").write_text("{nonsense")
    (base / "broken.parquet").write_text("nonsense")
    result = host.run(offline("bad data", source, "PTDiffusionDPO", DPO))
    assert result.event == "error" and result.error["node_type"] == source["class_type"]
    assert all(word in result.text for word in words), result.text


def test_latents_and_sizes_that_do_not_fit_are_named(host):
    pictures(host.base / "input" / "small", 2)
    graph = offline("bad size", folder_node("small"), "PTDiffusionDPO", DPO)
    graph["21"]["inputs"] |= {"width": 32, "height": 32, "size_rule": "must have this size"}
    result = host.run(graph)
    assert result.event == "error" and result.error["node_type"] == "PTEncodePairs"
    assert "24 x 24 and 24 x 24, not 32 x 32" in result.text
