"""What a run's name means: finished, go on, changed, start over, twice at once, killed; and wires that cannot work."""
from __future__ import annotations

import json

import pytest
from posttrain.tests.host.lab_graph import loop_graph, node, plain_loop, report, summary
from posttrain.trainers.run.lock import RunLock

CLOSE = 1e-6


def folder_of(host, run):
    return host.base / "output" / "posttrain" / run


def trained(result) -> int:
    return result.counts.get("posttrain.iteration", 0)


def queue_again_and_more(host):
    """The life of a run, the same numbers in every cache mode."""
    first = host.run(loop_graph("life", 20))
    assert report(first) == (20, pytest.approx(plain_loop(20), rel=CLOSE)) and trained(first) == 20
    for _ in range(3):
        again = host.run(loop_graph("life", 20))
        assert report(again) == report(first) and trained(again) == 0
    assert "nothing to do" in summary(host.run(loop_graph("life", 19)))
    more = host.run(loop_graph("life", 33))
    assert report(more) == (33, pytest.approx(plain_loop(33), rel=CLOSE)) and trained(more) == 13
    less = host.run(loop_graph("life", 10))
    assert report(less) == report(more) and trained(less) == 0


def test_finished_again_and_more(host):
    queue_again_and_more(host)


@pytest.mark.parametrize("cache", ["--cache-none", "--cache-lru 10", "--cache-ram 1"])
def test_the_same_in_every_other_cache_mode(host_with, cache):
    queue_again_and_more(host_with(*cache.split()))


def test_queue_again_says_that_nothing_is_to_be_done(host):
    host.run(loop_graph("word", 3))
    again = host.run(loop_graph("word", 3), keep=True)
    ends = [m["data"] for _, m in again.messages if m["type"] == "posttrain.end"]
    assert "nothing to do" in ends[0]["text"] and ends[0]["status"] == "done"
    assert "nothing to do" in summary(again)


def test_two_runs_from_one_policy_do_not_touch_each_other(host):
    numbers = [report(host.run(loop_graph(f"value {i}", 7))) for i in range(2)]
    assert numbers[0] == numbers[1] == (7, pytest.approx(plain_loop(7), rel=CLOSE))


def test_changed_settings_are_asked_about(host):
    host.run(loop_graph("changed", 4))
    asked = host.run(loop_graph("changed", 8, rate=0.5))
    assert asked.event == "error" and "LabTrainStep, rate: 0.1 -> 0.5" in asked.text
    for choice in ("continue with changed settings", "start over", "another run_name"):
        assert choice in asked.text
    went_on = host.run(loop_graph("changed", 8, rate=0.5, when="continue with changed settings"))
    assert report(went_on)[0] == 8 and trained(went_on) == 4
    noted = json.loads((folder_of(host, "changed") / "config.json").read_text())["changes"]
    assert noted == [{"iteration": 4, "changed": {"LabTrainStep.rate": [0.1, 0.5]}}]


def test_what_only_shows_or_saves_is_no_setting(host):
    host.run(loop_graph("same", 4))
    graph = loop_graph("same", 6, save_every=3)
    graph["20"] = node("PreviewImage", images=["3", 0])
    graph["7"]["inputs"]["samples_every"] = 1
    graph = json.loads(json.dumps(graph).replace('"5"', '"55"'))  # nor is a node's number
    assert report(host.run(graph))[0] == 6


def test_start_over_keeps_the_old_run(host):
    host.run(loop_graph("over", 6))
    result = host.run(loop_graph("over", 4, rate=0.3, when="start over"))
    assert report(result) == (4, pytest.approx(plain_loop(4, rate=0.3), rel=CLOSE))
    assert (folder_of(host, "over_backup_1") / "checkpoints" / "state_000006.safetensors").exists()
    # a change after the loop must not throw the training away
    graph = loop_graph("over", 4, rate=0.3, when="start over")
    graph["30"] = node("LabReport", policy=["7", 0])
    assert trained(host.run(graph)) == 0


def test_a_run_goes_back_to_an_earlier_checkpoint_once_and_the_cache_knows(host):
    graph = loop_graph("back", 6, save_every=2)
    first = report(host.run(graph))
    graph["2"]["inputs"]["continue_from"] = 3
    refused = host.run(graph)
    assert refused.event == "error" and "continue_from" in refused.text and "those of 2, 4, 6;" in refused.text
    graph["2"]["inputs"]["continue_from"] = 4
    again = host.run(graph)
    assert report(again) == first and trained(again) == 2
    more = loop_graph("back", 7, save_every=2)
    more["2"]["inputs"]["continue_from"] = 4
    assert trained(host.run(more)) == 1 and not (folder_of(host, "back_backup_2")).exists()
    assert (folder_of(host, "back_backup_1") / "checkpoints" / "state_000006.safetensors").exists()


def test_second_run_at_once_is_refused(host):
    folder = folder_of(host, "busy")
    folder.mkdir(parents=True)
    lock = RunLock(folder / "lock", "busy")
    try:
        refused = host.run(loop_graph("busy", 3))
        assert "'busy' is being trained at this moment" in refused.text
    finally:
        lock.release()
    assert report(host.run(loop_graph("busy", 3)))[0] == 3


def test_three_skipped_updates_stop_the_run(host):
    result = host.run(loop_graph("skipping", 20, skip_from=4))
    assert result.event == "error" and "3 updates in a row were skipped" in result.text
    assert (folder_of(host, "skipping") / "checkpoints" / "state_000007.safetensors").exists()


def test_killed_server_goes_on_bit_for_bit(host_with):
    first = host_with()
    killed = []

    def kill(message):
        if message["type"] == "posttrain.iteration" and message["data"]["iteration"] == 13 and not killed:
            killed.append(True)
            first.kill()

    with pytest.raises(Exception, match="died"):
        first.run(loop_graph("killed", 30, seconds=0.02, save_every=5), on_message=kill)
    second = host_with(base=first.base)
    result = second.run(loop_graph("killed", 30, seconds=0.02, save_every=5))
    assert report(result) == (30, pytest.approx(plain_loop(30), rel=CLOSE))
    lines = (folder_of(first, "killed") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == list(range(1, 31))
    assert trained(result) < 30


@pytest.mark.parametrize("name", ["../out", "a/b", "", "nul", "x" * 100])
def test_bad_names_are_refused_before_anything_runs(host, name):
    refused = host.run(loop_graph(name, 3))
    assert refused.event == "rejected" and "run_name" in refused.text


def wired_past_the_loop(graph):
    graph["6"]["inputs"]["policy"] = graph["7"]["inputs"]["policy"] = ["1", 0]
    graph["7"]["inputs"]["policy"] = ["1", 0]
    return "policy: it does not depend on Loop Start"


def wired_straight(graph):
    graph["7"]["inputs"]["policy"] = ["2", 1]
    return "policy: it comes straight from Loop Start"


def wired_out_of_the_body(graph):
    graph["9"] = node("LabTrainStep", policy=["7", 0], images=["3", 0], advantages=["5", 0], rate=0.1, fail_at=-1,
                      skip_from=-1)
    graph["10"] = node("LabReport", policy=["9", 0])
    return "Only what Loop End hands out leaves the loop"


@pytest.mark.parametrize("spoil", [wired_past_the_loop, wired_straight, wired_out_of_the_body])
def test_wrong_wires_are_explained(host, spoil):
    graph = loop_graph(f"wires {spoil.__name__}", 3)
    words = spoil(graph)
    result = host.run(graph)
    assert result.event == "error" and words in result.text
    assert result.error["node_id"] == "7"
