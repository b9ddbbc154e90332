"""Rewards in a real ComfyUI: scoring through the API, ensembles, missing models, the page's list of nodes."""
from __future__ import annotations

import base64
import io
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image, ImageStat
from posttrain.tests.host.spine_graph import spine
from safetensors.torch import save_file


def picture(host, name: str, size=(48, 32)) -> None:
    folder = host.base / "input"
    folder.mkdir(exist_ok=True)
    Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 20).convert("RGB").save(folder / name)


def scoring(reward: list, extra: dict) -> dict:
    """Load an image, score it with the reward that `extra` makes."""
    return {"1": {"class_type": "LoadImage", "inputs": {"image": "scored.png"}},
            "2": {"class_type": "PTScoreImages", "inputs": {"images": ["1", 0], "reward": reward, "prompt": "a fractal",
                                                            "prompt_mode": "one prompt for all images"}}, **extra}


def shown(result, node: str = "2") -> list[str]:
    return [text for _, message in result.messages if message["type"] == "executed" and message["data"]["node"] == node
            for text in message["data"]["output"]["text"]]


JPEG = {"class_type": "PTRewardJPEG", "inputs": {"aim": "small files (compressibility)", "unit": "kB", "quality": 95}}
BRIGHT = {"class_type": "PTRewardColour", "inputs": {"statistic": "brightness", "aim": "more", "low": 0.0, "high": 1.0}}


def test_ensemble_with_a_monitor_scores_an_image(host):
    picture(host, "scored.png")
    member = {"class_type": "PTRewardMember", "inputs": {"reward": ["4", 0], "role": "monitor", "weight": 1.0, "scale": "raw",
                                                         "threshold": 0.5, "softness": 0.1}}
    ensemble = {"class_type": "PTRewardEnsemble", "inputs": {"combine": "weighted mean", "k": 1.0, "normalise_again": False,
                                                             "reward_1": ["3", 0], "reward_2": ["5", 0]}}
    result = host.run(scoring(["6", 0], {"3": JPEG, "4": BRIGHT, "5": member, "6": ensemble}), keep=True)
    assert result.event == "success", result.text
    head, table, about = shown(result)
    assert "mean 0" in head and table.splitlines()[0].split("\t")[1:4] == ["score", "JPEG compressibility", "brightness"]
    assert "looks at the image alone" in about and "brightness (monitor)" in about
    notes, = shown(result, "6")
    assert "No monitor" not in notes and "brightness (monitor)" in notes


def test_an_ensemble_without_a_monitor_says_so_and_shows_each_member_raw_and_normalised(host):
    """On the node, in the table, and written under the image; the node's defaults are group, weighted, again."""
    picture(host, "scored.png")
    info = host.object_info()
    member, ensemble = (info[name]["input"]["required"] for name in ("PTRewardMember", "PTRewardEnsemble"))
    assert (member["role"][0][0], member["weight"][1]["default"], member["scale"][0][0]) == ("trained", 1.0, "z-score in the prompt group")
    assert ensemble["combine"][0][0] == "weighted mean" and ensemble["normalise_again"][1]["default"] is True
    mix = {"class_type": "PTRewardEnsemble", "inputs": {"combine": "weighted mean", "k": 1.0, "normalise_again": True,
                                                        "reward_1": ["3", 0], "reward_2": ["4", 0]}}
    half = {"class_type": "ImageScaleBy", "inputs": {"image": ["1", 0], "upscale_method": "area", "scale_by": 0.25}}
    back = {"class_type": "ImageScale", "inputs": {"image": ["7", 0], "upscale_method": "nearest-exact", "width": 48,
                                                   "height": 32, "crop": "disabled"}}
    both = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["8", 0]}}
    labelled = {"class_type": "PTShowScores", "inputs": {"images": ["9", 0], "scores": ["2", 0], "best_first": True}}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["10", 0]}}
    graph = scoring(["6", 0], {"3": JPEG, "4": BRIGHT, "6": mix, "7": half, "8": back, "9": both, "10": labelled, "11": preview})
    graph["2"]["inputs"]["images"] = ["9", 0]
    result = host.run(graph, keep=True)
    assert result.event == "success", result.text
    assert "No monitor" in shown(result, "6")[0] and "never trained on" in shown(result, "6")[0]
    head, *lines = [line.split("\t") for line in shown(result)[1].splitlines()]
    assert head[1:-1] == ["score", "JPEG compressibility", "brightness", "JPEG compressibility (normalised)", "brightness (normalised)"]
    for column in head[-3:-1]:
        values = [float(line[head.index(column)]) for line in lines]
        assert abs(sum(values)) < 1e-3 and abs(abs(values[0]) - 1) < 1e-3  # two images: z-scores of 1 and -1
    image, = {i["filename"] for i in result.outputs["11"]["images"][:1]}
    size = Image.open(host.base / "temp" / image).size
    assert size == (288, 192 + 3 * 18 + 6)  # enlarged to 288 wide; under it the score and a line for each member


def test_a_missing_model_is_one_clear_message_on_its_node(host):
    picture(host, "scored.png")
    clip = {"class_type": "PTRewardCLIP", "inputs": {"kind": "PickScore", "model": "somebodys_file.safetensors"}}
    result = host.run(scoring(["3", 0], {"3": clip}))
    assert result.event == "error", result.text
    for word in ("PickScore_v1.safetensors", "3.9 GB", "reward_models", "somebodys_file"):
        assert word in result.text


def test_real_clip_network_under_the_hosts_memory_manager(host):
    """A small random CLIP in the published layout, through the node, twice: the same number, the network read once."""
    from posttrain.tests.unit.rewards.networks import tiny_open_clip

    picture(host, "scored.png")
    folder = host.base / "models" / "reward_models"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tiny_open_clip().state_dict().items()}, folder / "PickScore_v1.safetensors")
    numbers = []
    for batch in (16, 4):
        clip = {"class_type": "PTRewardCLIP", "inputs": {"kind": "PickScore", "model": "auto", "precision": "fp32",
                                                         "batch_size": batch}}
        result = host.run(scoring(["3", 0], {"3": clip}), keep=True)
        assert result.event == "success", result.text
        numbers.append(shown(result)[1].splitlines()[1].split("\t")[1])
    assert numbers[0] == numbers[1] and math.isfinite(float(numbers[0]))


def test_every_reward_node_is_offered_with_a_filled_menu(host):
    info = host.object_info()
    for name in ("PTRewardCLIP", "PTRewardImageReward", "PTRewardHPSv3", "PTRewardAesthetic", "PTRewardNSFW", "PTDetector", "PTRewardWatermark",
                 "PTRewardClassifier", "PTVLMLocal", "PTRewardGenEval"):
        assert info[name]["input"]["required"]["model"][0], name


class Judge:
    """A judge server on this machine that says yes the surer, the brighter an image is. lives: questions that it answers;
    after them it closes the connection, hangs or sends nonsense, whatever `end` says."""

    def __init__(self, port: int = 0, lives: int | None = None, end: str = "dies"):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if outer.left is not None:
                    outer.left -= 1
                    if outer.left < 0:
                        if outer.when_dead:
                            threading.Thread(target=outer.when_dead).start()
                            outer.when_dead = None
                        if end == "hangs":
                            outer.closed.wait(30)
                        if end != "talks nonsense":
                            return  # no answer at all: the connection is closed
                        return self.answer(b"<html>As an AI")
                url = body["messages"][0]["content"][0]["image_url"]["url"]
                image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L")
                level = min(max(ImageStat.Stat(image).mean[0] / 255, 0.01), 0.99)
                top = [{"token": "Yes", "logprob": math.log(level)}, {"token": "No", "logprob": math.log(1 - level)}]
                self.answer(json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}).encode())

            def answer(self, answer: bytes):
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args):
                pass

        self.left, self.when_dead, self.closed = lives, None, threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


def judged_loop(run: str, port: int, iterations: int, **server) -> dict:
    """The shipped loop with a VLM server as its reward."""
    graph = spine(run, iterations)
    graph["20"] = {"class_type": "PTVLMServer", "inputs": {"url": f"http://127.0.0.1:{port}/v1", "model": "judge", "timeout": 5.0,
                                                           "tries": 2, "at_once": 4, "image_side": 64} | server}
    graph["21"] = {"class_type": "PTRewardVLM", "inputs": {"vlm": ["20", 0], "kind": "yes or no", "question": "",
                                                           "average": "mean"}}
    graph["8"]["inputs"]["reward"] = ["21", 0]
    return graph


def metrics(host, graph: dict) -> list[dict]:
    folder = host.base / "output" / "posttrain" / graph["6"]["inputs"]["run_name"]
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def iterations(host, graph: dict) -> list[int]:
    return [line["iteration"] for line in metrics(host, graph)]


TWO_AND_A_BIT = 8 * 2 + 3  # two iterations of 8 images, and a few questions of the third


@pytest.mark.parametrize("end", ["dies", "hangs", "talks nonsense"])
def test_a_judge_that_fails_in_mid_run_pauses_it_with_its_state_saved(host, end):
    with Judge(lives=TWO_AND_A_BIT, end=end) as judge:
        graph = judged_loop(f"judge {end}", judge.port, 4, timeout=2.0)
        result = host.run(graph)
    run = graph["6"]["inputs"]["run_name"]
    assert result.event == "error" and "goes on from its saved state" in result.text, result.text
    assert "is paused after iteration 2 of 4" in result.text
    assert iterations(host, graph) == [1, 2]
    assert list((host.base / "output" / "posttrain" / run / "checkpoints").glob("state_*2.safetensors"))
    assert host.get(f"/posttrain/runs/{run}").json()["status"] == "paused"
    with Judge(port=judge.port):
        result = host.run(graph)
    assert result.event == "success", result.text
    assert iterations(host, graph) == [1, 2, 3, 4]
    assert host.get(f"/posttrain/runs/{run}").json()["status"] == "done"


def test_train_is_paused_alike(host):
    with Judge(lives=TWO_AND_A_BIT) as judge:
        graph = judged_loop("judge dies for train", judge.port, 3)
        node = {key: graph[number]["inputs"][key] for number, key in (
            ("10", "trainer"), ("7", "vae"), ("7", "sampling"), ("7", "prompts"), ("8", "reward"), ("6", "policy"),
            ("6", "run_name"), ("6", "iterations"), ("6", "when_run_exists"), ("6", "save_every"))}
        graph["30"] = {"class_type": "PTTrain", "inputs": {**node, "advantage_rule": "group mean, global std", "samples_every": 0}}
        graph = {key: content for key, content in graph.items() if int(key) < 6 or int(key) >= 20}
        result = host.run(graph)
        status = host.get(f"/posttrain/runs/{node['run_name']}").json()
        assert result.event == "error" and (status["status"], status["iteration"]) == ("paused", 2), result.text
    with Judge(port=judge.port):
        assert host.run(graph).event == "success"


def test_a_run_waits_for_a_judge_that_comes_back(host):
    """Dies in the third iteration and is back after a few seconds: no image is lost, the run never notices."""
    dead, revived = Judge(lives=TWO_AND_A_BIT), []
    graph = judged_loop("judge comes back", dead.port, 4, tries=6)

    def back():
        revived.append(Judge(port=dead.port))

    def watch(message):
        if message["type"] == "posttrain.iteration" and message["data"]["iteration"] == 2:
            threading.Timer(3.0, back).start()

    dead.when_dead = dead.close
    result = host.run(graph, on_message=watch)
    for judge in revived:
        judge.close()
    assert result.event == "success", result.text
    assert revived and iterations(host, graph) == [1, 2, 3, 4]
    assert all(line["failed"] == 0 for line in metrics(host, graph))
    assert metrics(host, graph)[2]["seconds"] > 2


def test_a_network_is_unloaded_when_the_host_wants_its_memory(host):
    """ComfyUI's own Free Model Memory moves it out; the next score is the same."""
    from posttrain.tests.unit.rewards.networks import tiny_open_clip

    picture(host, "scored.png")
    folder = host.base / "models" / "reward_models"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tiny_open_clip().state_dict().items()}, folder / "HPS_v2.1_compressed.safetensors")
    found = []
    for batch in (16, 8):
        clip = {"class_type": "PTRewardCLIP", "inputs": {"kind": "HPSv2.1", "model": "auto", "precision": "fp32",
                                                         "batch_size": batch}}
        before = host.log_text().count("Requested to load Box")
        result = host.run(scoring(["3", 0], {"3": clip}), keep=True)
        assert result.event == "success", result.text
        found.append((shown(result)[1], host.log_text().count("Requested to load Box") - before))
        host.post("/free", {"unload_models": True})
    assert found[0] == found[1] and found[0][1] == 1


def test_calibration_is_stored_with_the_run_and_used_by_its_loop(host):
    """Base images are scored once, the ensemble of the loop reads the statistics, starting over keeps them."""
    graph = spine("calibrated", 2)
    run = graph["6"]["inputs"]["run_name"]
    graph["20"] = {"class_type": "PTRollout", "inputs": {"policy": ["3", 0] if graph["3"]["class_type"] == "PTCreatePolicy" else
                                                         graph["6"]["inputs"]["policy"],
                                                         **{k: graph["7"]["inputs"][k] for k in ("prompts", "vae", "sampling")},
                                                         "iteration": 0}}
    graph["21"] = {"class_type": "PTRewardSum", "inputs": {"reward_1": graph["8"]["inputs"]["reward"], "weight_1": 1.0,
                                                           "reward_2": ["22", 0], "weight_2": 1.0}}
    graph["22"] = BRIGHT
    graph["23"] = {"class_type": "PTScore", "inputs": {"rollout": ["20", 0], "reward": ["21", 0]}}
    graph["24"] = {"class_type": "PTCalibrateRewards", "inputs": {"scores": ["23", 0], "run_name": run, "measure_again": False}}
    for number, (reward, role) in {"25": (graph["8"]["inputs"]["reward"], "trained"), "26": (["22", 0], "monitor")}.items():
        graph[number] = {"class_type": "PTRewardMember", "inputs": {"reward": reward, "role": role, "weight": 1.0,
                                                                    "scale": "calibrated", "threshold": 0.5, "softness": 0.1}}
    graph["27"] = {"class_type": "PTRewardEnsemble", "inputs": {
        "combine": "weighted mean", "k": 1.0, "normalise_again": False, "reward_1": ["25", 0], "reward_2": ["26", 0],
        "calibration": ["24", 0]}}
    graph["8"]["inputs"]["reward"] = ["27", 0]
    folder, stored = host.base / "output" / "posttrain" / run, []
    for when in ("continue", "start over"):
        graph["6"]["inputs"]["when_run_exists"] = when
        result = host.run(graph)
        assert result.event == "success", result.text
        stored.append(json.loads((folder / "calibration.json").read_text()))
    assert stored[0] == stored[1] and len(stored[0]) == 2
    line, (name, verifier) = metrics(host, graph)[0], next((n, s) for n, s in stored[0].items() if n != "brightness")
    assert verifier["count"] == 8
    expected = (line[f"reward/{name}"] - verifier["mean"]) / verifier["std"]
    assert abs(line["reward_mean"] - expected) < 1e-6
    assert "reward/brightness" in line  # the monitor is watched in every iteration


def test_an_adversarial_reward_is_trained_in_every_iteration_of_a_loop(host):
    """A head learns base pictures against the policy's, here made blatant, and counts in the loop's reward as a penalty."""
    graph = spine("adversarial", 2, **{"4.images_per_prompt": 6})
    sampling = {k: graph["7"]["inputs"][k] for k in ("prompts", "vae", "sampling")}
    graph["20"] = {"class_type": "PTRollout", "inputs": {"policy": graph["6"]["inputs"]["policy"], **sampling, "iteration": 0}}
    graph["21"] = {"class_type": "ImageInvert", "inputs": {"image": ["7", 1]}}
    graph["22"] = {"class_type": "PTAdversarialReward", "inputs": {"base_images": ["20", 1], "policy_images": ["21", 0],
                                                                   "steps": 20, "learning_rate": 0.01, "seed": 0}}
    graph["23"] = {"class_type": "PTRewardSum", "inputs": {"reward_1": graph["8"]["inputs"]["reward"], "weight_1": 1.0,
                                                           "reward_2": ["22", 0], "weight_2": 0.1}}
    graph["8"]["inputs"]["reward"] = ["23", 0]
    graph["24"] = {"class_type": "PTScoreImages", "inputs": {"images": ["20", 1], "reward": ["25", 0], "prompt": "",
                                                             "prompt_mode": "one prompt for all images"}}
    graph["25"] = {"class_type": "PTAdversarialReward", "inputs": {"base_images": ["20", 1], "policy_images": ["26", 0],
                                                                   "steps": 20, "learning_rate": 0.01, "seed": 0}}
    graph["26"] = {"class_type": "ImageInvert", "inputs": {"image": ["20", 1]}}
    graph["27"] = {"class_type": "PTScoreImages", "inputs": {**graph["24"]["inputs"], "images": ["26", 0]}}
    result = host.run(graph, keep=True)
    assert result.event == "success", result.text
    base, faked = (float(shown(result, node)[0].split(",")[0].removeprefix("mean ")) for node in ("24", "27"))
    assert base > 0 > faked  # log-odds: the base model's pictures and not the others
    for line in metrics(host, graph):
        verifier = next(v for k, v in line.items() if k.startswith("reward/") and "base model" not in k)
        assert abs(line["reward_mean"] - verifier - 0.1 * line["reward/looks like the base model"]) < 1e-6
