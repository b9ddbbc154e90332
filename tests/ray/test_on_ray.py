"""The same run under Ray: what one process trains, after a process, the driver or the user has ended it; and nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.tests.host.headless_runs import LONGEST, Headless, difference, until
from posttrain.tests.host.spine_graph import CLIP, MODEL, spine
from posttrain.tests.ray.runs import gone, on_two, processes, small, started_by
from posttrain.tools.graphs import swap_reward
from posttrain.tools.host import PACK, Host, comfyui_folder

SAMPLER = re.compile(r"\(Sampler pid=(\d+)\S* PostTrain: sampler (\d) is ready")
JUDGE = re.compile(r"\(Judge pid=(\d+)\S* PostTrain: judge (\d) is ready")


def defaults(kind: str) -> dict:
    """What the widgets of a node stand at; of a menu the first choice, where it has no other."""
    inputs = {name: spec for part in NODE_CLASS_MAPPINGS[kind].INPUT_TYPES().values() for name, spec in part.items()}
    firsts = {name: kind[0] for name, (kind, *_) in inputs.items() if isinstance(kind, (list, tuple))}
    return firsts | {name: more[0]["default"] for name, (_, *more) in inputs.items() if more and "default" in more[0]}


def sampled_elsewhere(run: str, addresses: str) -> dict:
    """A small DiffusionNFT whose images others draw."""
    graph = spine(run, 3, **{"4.transition": "deterministic", "4.prompts_per_iteration": 4})
    graph["5"] = {"class_type": "PTNFT", "inputs": defaults("PTNFT") | {"learning_rate": 1e-3, "warmup_steps": 0}}
    settings = {"sampler": "euler", "lora_precision": "float32", "longest_wait": 120.0}
    inputs = {"model": MODEL, "clip": CLIP, "addresses": addresses} | settings
    graph["21"] = {"class_type": "PTOtherComputers", "inputs": inputs}
    graph["7"] = {"class_type": "PTRolloutOnComputers", "inputs": graph["7"]["inputs"] | {"computers": ["21", 0]}}
    return graph


def points(of: Headless, run: str) -> list[dict]:
    file = of.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def names_of_runs(of: Headless) -> list[str]:
    return [path.name for path in (of.base / "output" / "posttrain").iterdir()]


def test_a_process_that_is_killed_costs_nothing(alone, shared):
    process = on_two(shared, small(**{"6.when_run_exists": "start over", "6.save_every": 1}))
    until(lambda: shared.iterations("a") >= 1, process, LONGEST)
    started = started_by(process)
    before = processes(shared)
    os.kill(before["1"], signal.SIGKILL)
    assert process.wait(LONGEST) == 0, shared.text()[-3000:]
    assert before.keys() == {"0", "1"} and processes(shared) != before  # others have met
    assert shared.iterations("a") == 3 and names_of_runs(shared) == ["spine a"]  # it did not start over again
    assert difference(alone.lora("a"), shared.lora("a")) < 1e-6
    assert re.search(r"spine a: 3 of 3, reward ", shared.text())
    assert len(started) > 4 and gone(started)


def test_a_cancel_saves_and_a_killed_driver_leaves_nothing_and_the_same_command_goes_on(alone, shared):
    process = on_two(shared, small())
    until(lambda: shared.iterations("a") >= 1, process, LONGEST)
    started = started_by(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(LONGEST) == 130, shared.text()[-3000:]
    assert "Cancelled: the training saves its state" in shared.text() and gone(started)
    assert 1 <= shared.iterations("a") < 3 and not (shared.base / "models" / "loras" / "tests").exists()

    process = on_two(shared, small(**{"6.save_every": 1}))
    until(lambda: len(processes(shared)) == 2, process, LONGEST)
    started = started_by(process)
    process.kill()
    process.wait()
    assert len(started) > 4 and gone(started)  # two small processes of Ray look for their parent for a minute

    assert on_two(shared, small()).wait(LONGEST) == 0, shared.text()[-3000:]
    assert difference(alone.lora("a"), shared.lora("a")) < 1e-6 and names_of_runs(shared) == ["spine a"]


def test_the_page_of_a_comfyui_shows_two_processes_and_cancels_them(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_PAGE_KEY", "0123456789abcdef")
    with Host(tmp_path / "watching") as page:
        options = ("--workers", "2", "--page", page.url)
        process = shared.start(small(**{"6.iterations": 500}), first=("ray",), options=options)
        until(lambda: len(page.get("/posttrain/runs").json()) == 1, process, LONGEST)
        (name,) = (run["run"] for run in page.get("/posttrain/runs").json())
        until(lambda: page.get(f"/posttrain/runs/{name}").json()["points"], process, LONGEST)
        started = started_by(process)
        assert page.post(f"/posttrain/runs/{name}/steer", {"do": "cancel"}).ok
        assert process.wait(LONGEST) == 130, shared.text()[-3000:]
        found = page.get(f"/posttrain/runs/{name}").json()
        assert found["status"] == "cancelled" and len(found["points"]) == shared.iterations("a")
    assert name.startswith("spine a @ ") and gone(started)


def test_what_cannot_run_ends_in_words(shared):
    assert on_two(shared, "{}", workers=1000).wait(LONGEST) == 2
    assert "--workers 1000, --samplers 0, --judges 0: Ray has " in shared.text()
    process = on_two(shared, '{"1": {"class_type": "KSampler", "inputs": {}}}')
    assert process.wait(LONGEST) == 2 and "The workflow is wrong" in shared.text(), shared.text()[-3000:]


def test_a_model_that_no_machine_has_the_memory_for_is_refused_with_its_size(shared):
    lora = shared.base / "models" / "loras" / "large.safetensors"
    with lora.open("wb") as file:
        file.truncate(10**12)  # of nothing
    graph = small() | {"41": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": lora.name}}}
    assert on_two(shared, graph).wait(LONGEST) == 2, shared.text()[-3000:]
    assert "Each process asks Ray for 1 CPU and 1001.0 GB of memory; 1000.0 GB are in the model files" in shared.text()
    assert "--memory: 2 processes ask for 1001.0 GB each" in shared.text()


def test_the_workflow_is_looked_for_before_ray_is_started(shared):
    process = shared.start("{}", first=("ray", str(Path("nowhere.json"))))
    assert process.wait(LONGEST) == 2 and "nowhere.json is not there" in shared.text() and "local Ray" not in shared.text()


def test_actors_that_only_sample_draw_what_a_server_draws_also_where_one_is_killed(shared, tmp_path):
    """A server draws what KSampler draws in this process: tests/host/test_other_computers.py."""
    with Host(tmp_path / "server") as server:
        by_server = Headless(tmp_path / "by server")
        assert by_server.run(sampled_elsewhere("s", server.url)) == 0, by_server.text()[-3000:]
    process = shared.start(sampled_elsewhere("s", "ray"), first=("ray",), options=("--samplers", "2", "--cpus", "0.5"))
    until(lambda: shared.iterations("s") >= 1, process, LONGEST)
    started, samplers = started_by(process), {number: int(pid) for pid, number in SAMPLER.findall(shared.text())}
    os.kill(samplers["1"], signal.SIGKILL)
    assert process.wait(LONGEST) == 0 and set(samplers) == {"0", "1"}, shared.text()[-3000:]
    assert difference(by_server.lora("s"), shared.lora("s")) < 1e-6
    found = points(shared, "s")
    assert len(found) == 3 and all(0 < point["seconds_samplers"] <= point["seconds"] for point in found)
    assert gone(started)


def test_actors_tell_the_likelihoods_that_flow_grpo_learns_from(alone, shared):
    """Dealt out to two of them it learns what one process learns."""
    graph = small()
    settings = {"sampler": "as Rollout, with random steps", "lora_precision": "float32", "longest_wait": 300.0}
    graph["21"] = {"class_type": "PTOtherComputers", "inputs": {"model": MODEL, "clip": CLIP, "addresses": "ray"} | settings}
    graph["7"] = {"class_type": "PTRolloutOnComputers", "inputs": graph["7"]["inputs"] | {"computers": ["21", 0]}}
    process = shared.start(graph, first=("ray",), options=("--samplers", "2", "--cpus", "0.5"))
    until(lambda: shared.iterations("a") >= 1, process, LONGEST)
    started = started_by(process)
    assert process.wait(LONGEST) == 0, shared.text()[-3000:]
    assert difference(alone.lora("a"), shared.lora("a")) < 1e-6
    found = points(shared, "a")
    assert len(found) == 3 and all(0 < point["seconds_samplers"] <= point["seconds"] for point in found)
    assert len(started) > 4 and gone(started)


def test_judges_score_what_one_process_scores_also_where_one_is_killed(alone, shared):
    """A sum of a learned reward, which they hold, and a rule, which stays with the training."""
    graph = small(**{"6.run_name": "spine judged", "12.file_name": "tests/judged"})
    graph |= {"31": {"class_type": "PTDemoJudge", "inputs": {}}, "32": {"class_type": "PTRewardJPEG", "inputs": {}}}
    swap_reward(graph, {"class_type": "PTRewardSum", "inputs": {"reward_1": ["31", 0], "reward_2": ["32", 0]}})
    graph["32"]["inputs"] = defaults("PTRewardJPEG")
    graph["own reward"]["inputs"] |= defaults("PTRewardSum")
    assert alone.run(graph) == 0, alone.text()[-3000:]
    process = shared.start(graph, first=("ray",), options=("--judges", "2", "--cpus", "0.5"))
    until(lambda: shared.iterations("judged") >= 1, process, LONGEST)
    started, judges = started_by(process), {number: int(pid) for pid, number in JUDGE.findall(shared.text())}
    os.kill(judges["0"], signal.SIGKILL)
    assert process.wait(LONGEST) == 0 and set(judges) == {"0", "1"}, shared.text()[-3000:]
    assert difference(alone.lora("judged"), shared.lora("judged")) < 1e-6
    own, found = points(alone, "judged"), points(shared, "judged")
    assert len(found) == 3 and all(0 < point["seconds_judges"] <= point["seconds_scoring"] for point in found)
    names = [name for name in own[0] if name.startswith("reward")]
    assert len(names) > 3 and all(abs(one[name] - two[name]) < 1e-6 for one, two in zip(own, found) for name in names)
    assert gone(started)


def test_a_sampler_that_dies_is_replaced(shared):
    import ray
    from posttrain.ray_run import samplers as actors

    ray.init("local", include_dashboard=False, num_cpus=1)
    try:
        ray.cloudpickle.register_pickle_by_value(actors)
        arguments = ["workflow.json", "--comfyui", str(comfyui_folder()), "--cpu", "--base-directory", str(shared.base)]
        samplers = actors.started(ray, 1, {"num_cpus": 1.0}, arguments, shared.base / "custom_nodes" / PACK)
        ask = actors.ways(samplers)["ray 0"]
        assert ask("/system_stats", None, "", 30.0)[0] == 200 and ask("/nowhere", None, "", 30.0)[0] == 404
        (before,) = [each for each in psutil.Process().children(recursive=True) if each.name().startswith("ray::Sampler")]
        before.kill()
        with pytest.raises(OSError, match="of Ray"):
            ask("/system_stats", None, "", 5.0)
        end = time.monotonic() + 300
        while not answers(ask):
            assert time.monotonic() < end
            time.sleep(0.5)
        actors.close(ray, samplers)
    finally:
        ray.shutdown()


def answers(ask) -> bool:
    try:
        return ask("/system_stats", None, "", 30.0)[0] == 200
    except OSError:
        return False


def test_a_run_without_samplers_says_so(alone):
    assert alone.run(sampled_elsewhere("none", "ray")) == 1
    assert "addresses: ray stands for the samplers of a run under Ray, and this one has none" in alone.text()
