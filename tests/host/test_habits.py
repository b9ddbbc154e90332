"""Twenty habits of much-used packs, all in one graph and one host: the loop learns what it learns without them."""

from __future__ import annotations

from pathlib import Path

import pytest
from posttrain.tests.host.lab_graph import node
from posttrain.tests.host.spine_graph import TRAINED, latents, same, sampled, spine, weights
from posttrain.tools.graphs import only, rewire
from posttrain.tools.host import Host
from posttrain.tools.training import with_defaults

HABITS = Path(__file__).with_name("habits_pack")
ON_THE_MODEL = ("HabitWrapper", "HabitNote", "HabitAttention")
ON_LINKS = ("HabitAny", "HabitAlwaysChanged", "HabitList", "HabitExpand", "HabitHidden")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with Host(tmp_path_factory.mktemp("comfyui"), packs=[HABITS]) as running:
        yield running


def run(host, graph: dict):
    result = host.run(with_defaults(graph, host.object_info()))
    assert result.event == "success", result.text
    return result


def put_between(graph: dict, source: list, key: str, habit: dict, given: str = "value") -> None:
    """The habit's node on all links that lead from this output."""
    rewire(graph, source, [key, 0])
    graph[key] = {**habit, "inputs": {**habit["inputs"], given: source}}


def with_habits(graph: dict) -> dict:
    """On the model before the policy, on the links around the loop and on those inside of it."""
    rollout, score, prompts = only(graph, "PTRollout"), only(graph, "PTScore"), only(graph, "PTEncodePrompts")
    for at, kind in enumerate(ON_LINKS):
        put_between(graph, [rollout, 0], f"inside {at}", node(kind))
        put_between(graph, [prompts, 0], f"around {at}", node(kind))
    put_between(graph, [score, 0], "flexible", node("HabitFlexible"), "anything")
    put_between(graph, [only(graph, "PTSampling"), 0], "validated", node("HabitValidate", file="a"))
    put_between(graph, [only(graph, "PTFlowGRPO"), 0], "switch", node("HabitSwitch", first=True, b=["nowhere", 0]), "a")
    graph["nowhere"] = node("HabitBlock", value=["1", 0])
    put_between(graph, ["1", 0], "model 0", node(ON_THE_MODEL[0]))
    for at, kind in enumerate(ON_THE_MODEL[1:], 1):
        put_between(graph, [f"model {at - 1}", 0], f"model {at}", node(kind))
    last = [f"model {len(ON_THE_MODEL) - 1}", 0]
    readers = [
        (content, key)
        for content in graph.values()
        for key, value in content["inputs"].items()
        if value in (last, ["1", 1], ["1", 2]) and content["class_type"] != "HabitFromPipe"
    ]
    graph["pipe"] = node("HabitToPipe", model=last, clip=["1", 1], vae=["1", 2])
    graph["unpacked"] = node("HabitFromPipe", pipe=["pipe", 0])
    for content, key in readers:
        content["inputs"][key] = ["unpacked", {"1": content["inputs"][key][1]}.get(content["inputs"][key][0], 0)]
    # a picture inside the loop that is never made
    graph["blocked"] = node("HabitBlock", value=[rollout, 1])
    graph["unseen"] = node("PreviewImage", images=["blocked", 0])
    return graph


def test_the_loop_learns_the_same(host):
    run(host, spine("without", 2))
    graph = with_habits(spine("with", 2))
    graph["applied"] = node("PTApplyPolicy", policy=TRAINED, strength=1.0)
    run(host, sampled(graph, ["applied", 0], "habits", 900))
    assert same(weights(host, "without"), weights(host, "with"))
    assert any(bool(value.any()) for key, value in weights(host, "with").items() if "lora_B" in key)
    assert latents(host, "habits").shape[0] == 2
    seen = host.get("/habits").json()
    assert all(seen.values()), seen
