"""The wired loop in a real ComfyUI: every feature of the host in its body, cheap, flat, and always to be cancelled."""
from __future__ import annotations

import pytest
from posttrain.tests.host.lab_graph import loop_graph, node, plain_loop, report, summary, unrolled_graph

ITERATIONS = 10


def with_lists(graph):
    graph["9"] = node("LabSplit", images=["3", 0])
    graph["10"] = node("LabJoin", images=["9", 0])
    graph["4"]["inputs"]["images"] = ["10", 0]


def with_lazy(graph):
    graph["9"] = node("LabRollout", policy=["2", 1], iteration=["2", 2], seconds=30.0)
    graph["4"] = node("LabScoreLazy", images=["3", 0], other=["9", 0])


def with_outside_lists(graph):
    graph["9"] = node("LabOutside", name=graph["2"]["inputs"]["run_name"])
    graph["10"] = node("LabUseOutside", images=["3", 0], values=["9", 0], calls=["9", 1])
    graph["4"]["inputs"]["images"] = ["10", 0]


def with_is_changed(graph):
    graph["9"] = node("LabChanging", images=["3", 0])
    graph["4"]["inputs"]["images"] = ["9", 0]


def with_subgraph_ids(graph):
    for links in (n["inputs"] for n in graph.values()):
        links |= {k: [f"12:{v[0]}", v[1]] for k, v in links.items() if isinstance(v, list) and v[0] in "456"}
    for i in "456":
        graph[f"12:{i}"] = graph.pop(i)


CHANGES = {"plain": None, "v3": "LabScoreV3", "async": "LabScoreAsync", "expand": "LabScoreExpand", "lists": with_lists,
           "lazy": with_lazy, "outside_lists": with_outside_lists, "is_changed": with_is_changed,
           "subgraph_ids": with_subgraph_ids}


@pytest.mark.parametrize("name", CHANGES)
def test_body_keeps_feature(host, name):
    graph, change = loop_graph(f"feature {name}", ITERATIONS), CHANGES[name]
    if isinstance(change, str):
        graph["4"]["class_type"] = change
    elif change:
        change(graph)
    result = host.run(graph, timeout=25)
    assert report(result) == (ITERATIONS, pytest.approx(plain_loop(ITERATIONS), rel=1e-6))
    assert f"iteration {ITERATIONS}" in summary(result)


def test_preview_in_body_shows_every_iteration(host):
    graph = loop_graph("preview", ITERATIONS)
    graph["9"] = node("PreviewImage", images=["3", 0])
    result = host.run(graph, keep=True)
    shown = [m["data"] for _, m in result.messages if m["type"] == "executed" and m["data"]["node"] == "9"]
    files = {i["filename"] for data in shown if data["output"] for i in data["output"]["images"]}
    assert len(files) == 5 * ITERATIONS
    assert report(result)[0] == ITERATIONS


def test_loop_inside_a_loop(host):
    graph = loop_graph("outer", 5)
    graph["11"] = node("PTLoopStart", policy=["2", 1], run_name="inner", iterations=7, when_run_exists="continue",
                       save_every=1)
    graph["12"] = node("LabTrainStep", policy=["11", 1], images=["3", 0], advantages=["5", 0], rate=0.1, fail_at=-1,
                       skip_from=-1)
    graph["13"] = node("PTLoopEnd", loop=["11", 0], policy=["12", 0])
    graph["7"]["inputs"]["policy"] = ["13", 0]
    assert report(host.run(graph))[0] == 35
    runs = host.base / "output" / "posttrain"
    assert (runs / "outer" / "checkpoints" / "state_000005.safetensors").exists()
    assert not (runs / "inner").exists()


def test_two_loops_in_one_workflow(host):
    first, second = (loop_graph(f"pair {i}", ITERATIONS, score="LabScoreAsync") for i in (1, 2))
    second = {f"2{i}": {**n, "inputs": {k: [f"2{v[0]}", v[1]] if isinstance(v, list) else v
                                        for k, v in n["inputs"].items()}} for i, n in second.items()}
    result = host.run(first | second, keep=True)
    later = [m["data"]["nodes"] for _, m in result.messages if m["type"] == "progress_state"][-1]
    # loops that wait for their nodes take turns, and each one's progress still reaches the page
    assert {later[i]["state"] for i in ("7", "8", "27", "28")} == {"finished"}
    assert report(result, "8") == report(result, "28") == (ITERATIONS, pytest.approx(plain_loop(ITERATIONS), rel=1e-6))


def test_failing_node_is_named_and_the_policy_kept(host):
    result = host.run(loop_graph("failing", ITERATIONS, fail_at=5), keep=True)
    assert result.event == "error"
    for words in ("LabTrainStep (node 6)", "this step was told to fail", "after iteration 5 of 10", "Queue again"):
        assert words in result.text
    told = [m["data"] for _, m in result.messages if m["type"] == "posttrain.error"]
    assert [t["node"] for t in told] == ["6"]
    assert not any(m["type"] == "execution_error" and m["data"]["node_id"] == "6" for _, m in result.messages)
    again = host.run(loop_graph("failing", ITERATIONS, when="continue with changed settings"))
    assert report(again) == (ITERATIONS, pytest.approx(plain_loop(ITERATIONS), rel=1e-6))


def test_blocked_body_is_explained(host):
    graph = loop_graph("blocked", ITERATIONS)
    graph["9"] = node("LabBlock", images=["3", 0])
    graph["4"]["inputs"]["images"] = ["9", 0]
    assert "one of its nodes blocked" in host.run(graph).text


def test_thousand_iterations_are_cheap_and_flat(host):
    """Cheap beside the host itself, which runs the same nodes without a loop; in processor time, since the machine may be busy."""
    def seconds(graph):
        before = sum(host.status.cpu_times()[:2])
        return host.run(graph), sum(host.status.cpu_times()[:2]) - before

    host.run(loop_graph("warm", 20))
    unrolled, bare = seconds(unrolled_graph(50))
    first, short = seconds(loop_graph("hundred", 100, save_every=100))
    looped, used = seconds(loop_graph("thousand", 1000, save_every=100))
    assert report(unrolled) == (50, pytest.approx(plain_loop(50), rel=1e-6))
    assert report(first)[0] == 100 and report(looped)[0] == 1000
    assert looped.bytes / 1000 < 2000
    assert looped.rss_peak - looped.rss_before < 50
    assert used / 1000 < 1.5 * bare / 50  # 0.7 measured
    assert used / 1000 < 1.3 * short / 100  # 0.95 measured
    assert looped.counts["posttrain.iteration"] == 1000
    for private in ("execution_success", "execution_start"):
        assert looped.counts[private] == 1
    lines = (host.base / "output" / "posttrain" / "thousand" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1000


def test_progress_lights_the_body_and_counts_on_loop_end(host):
    result = host.run(loop_graph("progress", 5, seconds=0.25), keep=True)
    bars = [m["data"]["nodes"] for _, m in result.messages if m["type"] == "progress_state"]
    assert sum(any(b["display_node_id"] == "3" and b["state"] == "running" for b in bar.values()) for bar in bars) >= 4
    counted = {b["value"] for bar in bars for b in bar.values() if b["display_node_id"] == "7" and b["max"] == 5}
    assert counted >= {1, 2, 3, 4, 5}
    assert not any("posttrain results" in bar for bar in bars)


def test_cancel_never_misses(host):
    waited = []
    for trial in range(20):
        at = 1 + trial % 7
        graph = loop_graph("cancelled", 10_000, seconds=0.002 * (trial % 4), when="continue with changed settings")
        result = host.run(graph, timeout=30, cancel_when=lambda m: (
            m["type"] == "posttrain.iteration" and m["data"]["iteration"] % 10 == at))
        assert result.event == "interrupted", (trial, result.text)
        waited.append(result.cancel_seconds)
    print("cancel seconds:", sorted(round(s, 3) for s in waited))
    runs = host.base / "output" / "posttrain" / "cancelled" / "checkpoints"
    last = max(int(p.stem.split("_")[1]) for p in runs.iterdir())
    taken = host.run(loop_graph("cancelled", last, when="continue with changed settings"))
    assert report(taken) == (last, pytest.approx(plain_loop(last), rel=1e-5))
    assert "nothing to do" in summary(taken)


def test_runs_without_a_client(host):
    result = host.run(loop_graph("no client", ITERATIONS, fail_at=-1), client=False)
    assert report(result)[0] == ITERATIONS
    failed = host.run(loop_graph("no client failing", ITERATIONS, fail_at=3), client=False)
    status = host.history(failed.prompt_id)["status"]
    assert "this step was told to fail" in str(status["messages"])


def test_internal_nodes_are_hidden_from_the_menu(host):
    info = host.object_info()
    internal = [n for n in info if info[n]["category"] == "PostTrain/internal"]
    assert set(internal) == {"PTLoopRunner", "PTLoopFeed", "PTLoopSink", "PTDrawSteps"}
    assert all(info[n]["deprecated"] for n in internal)
