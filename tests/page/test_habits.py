"""Habits of the page, by its own commands: subgraphs, reroutes, Set and Get nodes, nodes bypassed and muted."""

from __future__ import annotations

import json

import pytest
from posttrain.tests.page.actions import faults, open_graph, small_graph, training_only

LOOP = ("6", "7", "8", "9", "10", "11")  # Loop Start to Loop End, in small_graph
BODY, PART = LOOP[1:-1], LOOP[1:3]
OF_THE_MACHINE = ("time", "seconds", "ram_gb", "vram_gb")  # and of what, in parts: "seconds_sampling"
SELECT = """(ids) => {
    app.canvas.deselectAll();
    app.canvas.selectItems(ids.map((id) => app.canvas.graph.getNodeById(id)));
}"""
NODES = "app.graph.nodes.map(({ id }) => String(id))"
PROMPT = "app.graphToPrompt().then(({ output }) => output)"
# a node on every link of the graph, as a user lays it there
REROUTED = """() => {
    for (const { id, origin_id, origin_slot, target_id, target_slot } of [...app.graph.links.values()]) {
        const dot = LiteGraph.createNode("Reroute");
        app.graph.add(dot);
        app.graph.getNodeById(origin_id).connect(origin_slot, dot, 0);
        dot.connect(0, app.graph.getNodeById(target_id), target_slot);
    }
}"""
BENT = "() => { for (const link of [...app.graph.links.values()]) app.graph.createReroute([0, 0], link); }"
# what packs call Set and Get: a value is given a name, and taken by it elsewhere; neither is there for the server
SET_AND_GET = """() => {
    class Set extends LGraphNode {
        isVirtualNode = true;
        constructor() { super("Set"); this.addInput("*", "*"); }
    }
    class Get extends LGraphNode {
        isVirtualNode = true;
        constructor() { super("Get"); this.addOutput("*", "*"); }
        getInputLink() {
            const there = this.graph.nodes.find(({ type, properties }) => type === "TestSet" && properties.name === this.properties.name);
            return this.graph.links.get(there.inputs[0].link);
        }
    }
    LiteGraph.registerNodeType("TestSet", Set);
    LiteGraph.registerNodeType("TestGet", Get);
    const named = {};
    for (const { origin_id, origin_slot, target_id, target_slot } of [...app.graph.links.values()]) {
        const name = `${origin_id} ${origin_slot}`, get = LiteGraph.createNode("TestGet");
        if (!named[name]) {
            named[name] = LiteGraph.createNode("TestSet");
            app.graph.add(named[name]);
            named[name].properties.name = name;
            app.graph.getNodeById(origin_id).connect(origin_slot, named[name], 0);
        }
        app.graph.add(get);
        get.properties.name = name;
        get.connect(0, app.graph.getNodeById(target_id), target_slot);
    }
}"""


def command(page, name: str) -> None:
    page.evaluate("(name) => app.extensionManager.command.execute(name)", name)


def folded(*groups):
    """Each group of nodes made a subgraph by the page's command, one after the other."""

    def fold(page):
        inside = []
        for nodes in groups:
            before = page.evaluate(NODES)
            page.evaluate(SELECT, [node for node in nodes if node in before] + inside)
            command(page, "Comfy.Graph.ConvertToSubgraph")
            inside = [node for node in page.evaluate(NODES) if node not in before]
            assert len(inside) == 1

    return fold


SUBGRAPHS = {
    "the loop in a subgraph": folded(LOOP),
    "its body in one": folded(BODY),
    "a part of it in one": folded(PART),
    "a part in one, in the loop's": folded(PART, LOOP),
}


def opened(page, run: str, iterations: int = 2) -> None:
    open_graph(page, training_only(small_graph(run, iterations)))


def trained(host, prompt: dict, run: str) -> list[dict]:
    """What the run's curve is made of."""
    result = host.run(prompt)
    assert result.event == "success", result.text
    lines = (host.base / "output" / "posttrain" / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.startswith(OF_THE_MACHINE)} for line in lines]


def kinds(prompt: dict) -> list[str]:
    return sorted(node["class_type"] for node in prompt.values())


@pytest.fixture(scope="module")
def plain(host):
    numbers = trained(host, training_only(small_graph("no habit", 2)), "no habit")
    assert len(numbers) == 2 and all(line["updates"] > 0 for line in numbers)
    return numbers


def test_in_subgraphs_it_trains_the_same(page, host, plain):
    for habit, fold in SUBGRAPHS.items():
        opened(page, habit)
        before = page.evaluate(PROMPT)
        fold(page)
        prompt = page.evaluate(PROMPT)
        assert prompt.keys() != before.keys() and kinds(prompt) == kinds(before), habit
        assert trained(host, prompt, habit) == plain, habit
    assert faults(page) == []


def test_what_links_pass_through_is_not_there_for_the_server(page):
    for laid in (REROUTED, BENT, SET_AND_GET):
        opened(page, "links")
        before, links = page.evaluate(PROMPT), page.evaluate("JSON.stringify([...app.graph.links.values()])")
        page.evaluate(laid)
        assert page.evaluate("JSON.stringify([...app.graph.links.values()])") != links
        assert page.evaluate(PROMPT) == before, laid


# node -> what is said where it is bypassed, and where it is muted
SAID = {
    "PTDemoWorld": ("missing model",) * 2,
    "PTEncodePrompts": ("prompts: they are not encoded yet", "missing prompts"),
    "PTCreatePolicy": ("missing policy",) * 2,
    "PTSampling": ("missing sampling",) * 2,
    "PTFlowGRPO": ("missing trainer",) * 2,
    "PTLoopStart": ("missing loop", "missing policy"),
    "PTRollout": ("missing rollout",) * 2,
    "PTScore": ("missing scores",) * 2,
    "PTAdvantages": ("feedback: FlowGRPO learns from advantages, but it was given nothing",) * 2,
    "PTTrainStep": ("policy: it comes straight from Loop Start, so nothing would be trained", "missing policy"),
    "PTLoopEnd": ("Prompt has no outputs",) * 2,
}


def test_a_node_bypassed_or_muted_is_said_in_words(page, host):
    opened(page, "bypassed", 1)
    nodes = page.evaluate("app.graph.nodes.map(({ id, type }) => [String(id), type])")
    assert sorted(kind for _, kind in nodes) == sorted(SAID)
    before = page.evaluate(PROMPT)
    for number, kind in nodes:
        for how, words in zip(("Bypass", "Mute"), SAID[kind]):
            page.evaluate(SELECT, [number])
            command(page, f"Comfy.Canvas.ToggleSelectedNodes.{how}")
            prompt = page.evaluate(PROMPT)
            assert len(prompt) == len(before) - 1
            result = host.run(prompt)
            assert result.event in ("rejected", "error") and words in result.text, (kind, how, result.text)
            command(page, f"Comfy.Canvas.ToggleSelectedNodes.{how}")
    assert page.evaluate(PROMPT) == before
