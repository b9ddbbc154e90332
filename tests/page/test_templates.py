"""Every shipped template in the real page: it is offered, opens without a complaint, and is its reviewed source."""
from __future__ import annotations

import json
import os

from posttrain.tests.page.actions import (
    ROOT,
    faults,
    fit,
    iterations_known,
    keep_screenshot,
    queue,
    source,
    wait_status,
    wait_until,
)
from posttrain.tests.page.app_mode import is_app
from posttrain.tests.page.templates import EACH, NO_COMPLAINT, complaints_of, keep_apart, opened, shipped
from posttrain.tools.make_templates import TEMPLATES, convert
from posttrain.tools.template_links import BORDER_IN, BORDER_OUT, graphs, links_of
from posttrain.tools.template_links import boxes as boxes_of
from posttrain.tools.template_places import HEADER
from posttrain.tools.template_view import BEGINNING

PACK = "ComfyUI-PostTrain"
# corners and middles of these nodes at which the page shows something else than the graph or what the nodes hold
HIDDEN = """(nodes) => {
    const canvas = app.canvas.canvas, view = app.canvas.ds, at = canvas.getBoundingClientRect();
    return nodes.flatMap(([id, height]) => {
        const { pos, size, title } = app.graph._nodes.find((node) => node.id === id), found = [];
        const bottom = Math.min(height, size[1]) - 10, sides = [10, size[0] - 10];
        for (const [right, down] of [...sides.flatMap((side) => [[side, -15], [side, bottom]]), [size[0] / 2, bottom / 2]]) {
            const x = at.x + (pos[0] + right + view.offset[0]) * view.scale;
            const y = at.y + (pos[1] + down + view.offset[1]) * view.scale;
            const there = document.elementFromPoint(x, y);
            if (there !== canvas && !there?.closest(".dom-widget")) found.push([title, right, down, there?.className ?? "outside"]);
        }
        return found;
    });
}"""
SMALL_SCREEN = {"width": 1280, "height": 800}


def unfolded(output: dict) -> dict:
    """The prompt with the ids that nodes of subgraphs have in the source: "50:14" is "14"."""
    def own(value):
        return [value[0].split(":")[-1], value[1]] if isinstance(value, list) else value

    found = {node.split(":")[-1]: {**content, "inputs": {name: own(value) for name, value in content["inputs"].items()}}
             for node, content in output.items()}
    assert len(found) == len(output), "two nodes of one number"
    return found


def default_of(node: dict, name: str):
    """Of a widget, as the host declares it."""
    (declared,) = [part[name] for part in node["input"].values() if name in part]
    return declared[1]["default"]


def without_other_sockets(anew: str, before: str) -> list[dict]:
    """Both workflows, without the sockets of those of ComfyUI's own nodes that this ComfyUI declares otherwise than the pinned
    one, and without the values that it has added."""
    both = [json.loads(text) for text in (anew, before)]
    for graph, expected in zip(*(graphs(workflow).values() for workflow in both)):
        for one, other in zip(graph["nodes"], expected["nodes"]):
            if named_sockets(one) != named_sockets(other) and not other["type"].startswith("PT"):
                one["widgets_values"] = one["widgets_values"][: len(other["widgets_values"])]
                for node in (one, other):
                    node.update(inputs=[], outputs=[], size=[])
        graph["links"], expected["links"] = links_of(graph), links_of(expected)  # without their types
    return both


def named_sockets(node: dict) -> list[list[str]]:
    return [[socket["name"] for socket in node.get(side, [])] for side in ("inputs", "outputs")]


def test_every_source_has_a_template():
    assert {path.stem for path in (ROOT / "workflows" / "api").glob("*.json")} == {t.source for t in TEMPLATES}
    assert {path.stem for path in (ROOT / "workflows").glob("*.json")} == {t.name for t in TEMPLATES}


@EACH
def test_it_is_offered_with_a_picture(host, template):
    assert template.name in host.get("/workflow_templates").json()[PACK]
    for suffix, start in ((".json", b"{"), (".jpg", b"\xff\xd8")):
        answer = host.get(f"/api/workflow_templates/{PACK}/{template.name}{suffix}")
        assert answer.ok and answer.content.startswith(start)


@EACH
def test_it_opens_as_its_source(page, host, template, tmp_path):
    page.set_viewport_size(SMALL_SCREEN)
    assert complaints_of(opened(page, template), template) == NO_COMPLAINT
    keep_screenshot(page, f"opened_{template.source}", tmp_path)
    if not is_app(page):
        note = page.evaluate("app.graph._nodes.find((node) => node.type === 'MarkdownNote').id")
        assert page.evaluate(HIDDEN, [[note, BEGINNING - HEADER], [int(template.picture[0][0]), 9999]]) == [], "the note and the curve are in sight"
    output = page.evaluate("async () => (await app.graphToPrompt()).output")
    plain = {node: {key: content[key] for key in ("class_type", "inputs")} for node, content in unfolded(output).items()}
    expected, nodes = source(template.source), host.object_info()
    for node, content in plain.items():
        if content["class_type"] == "PreviewAny":
            content["inputs"].pop("preview", None)  # the text that it shows, which only the page counts among its inputs
        if not content["class_type"].startswith("PT"):  # what newer hosts have added stands at its default
            for name in content["inputs"].keys() - expected[node]["inputs"].keys():
                assert content["inputs"].pop(name) == default_of(nodes[content["class_type"]], name), name
    assert plain == {node: {key: content[key] for key in ("class_type", "inputs")} for node, content in expected.items()}
    fit(page)
    keep_screenshot(page, template.source, tmp_path)
    assert faults(page) == []


@EACH
def test_it_is_up_to_date(lasting_page, template):
    """Made anew from its source it is the same file: python -m tools.make_templates."""
    anew = convert(lasting_page, template)
    if "POSTTRAIN_OTHER_HOST" not in os.environ:
        assert anew == shipped(template)
    found, expected = without_other_sockets(anew, shipped(template))
    assert found == expected


@EACH
def test_links_name_both_ends(template):
    for graph in graphs(json.loads(shipped(template))).values():
        nodes = {node["id"]: node for node in graph["nodes"]}
        borders = {BORDER_IN: graph.get("inputs"), BORDER_OUT: graph.get("outputs")}
        known, into_nodes = set(), set()
        for link, origin, out, target, into in links_of(graph):
            assert link in (borders[origin][out]["linkIds"] if origin in borders else nodes[origin]["outputs"][out]["links"])
            assert link in (borders[target][into]["linkIds"] if target in borders else [nodes[target]["inputs"][into]["link"]])
            known |= {link}
            into_nodes |= {link} if target in nodes else set()
        assert {i["link"] for node in nodes.values() for i in node.get("inputs", []) if i["link"] is not None} == into_nodes
        assert {i for border in borders.values() for slot in border or () for i in slot["linkIds"]} <= known


@EACH
def test_nodes_are_laid_out_neatly(template):
    for name, graph in graphs(json.loads(shipped(template))).items():
        boxes = boxes_of(graph)
        keep_apart(boxes)
        for one, a in boxes.items():
            assert name or any(g[0] <= a[0] and g[1] <= a[1] and a[2] <= g[0] + g[2] and a[3] <= g[1] + g[3] for g in
                               (group["bounding"] for group in graph["groups"])), f"node {one} is in no group"


def test_it_is_found_in_the_template_browser(page, tmp_path):
    template = TEMPLATES[0]
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_placeholder("Search").last.fill(template.name[:24])
    card = page.get_by_text(template.name, exact=False).first
    card.wait_for(timeout=30_000)
    page.wait_for_timeout(1500)
    keep_screenshot(page, "template_browser", tmp_path)
    card.click()
    page.wait_for_function("() => app.graph._nodes.some((node) => node.type === 'PTLoopEnd')", timeout=30_000)


def test_it_runs_and_shows_before_and_after(page, host, tmp_path):
    template = TEMPLATES[0]
    opened(page, template)
    page.evaluate("""() => {
        const small = { PTLoopStart: { run_name: 'template', iterations: 3, when_run_exists: 'start over' },
            PTSampling: { steps: 3, noisy_steps: 2, prompts_per_iteration: 2, images_per_prompt: 4, batch_size: 8 },
            PTLoopEnd: { samples_every: 1 }, PTSaveLora: { file_name: 'posttrain/template' } };
        for (const node of app.graph._nodes)
            for (const widget of node.widgets ?? [])
                if (widget.name in (small[node.type] ?? {})) widget.value = small[node.type][widget.name];
    }""")
    fit(page)  # the newest page draws nodes in sight alone, and pictures are fetched by those
    queue(page)
    assert wait_status(page, "Finished") == "Finished: 3 iterations"
    page.wait_for_function("() => app.graph._nodes.filter((node) => node.imgs?.length).length === 2", timeout=60_000)
    wait_until(page, lambda: not host.get("/queue").json()["queue_running"])
    assert iterations_known(page, "template") == [1, 2, 3]
    assert (host.base / "models/loras/posttrain/template.safetensors").is_file()
    seeds = page.evaluate("""() => {
        const all = (nodes) => nodes.flatMap((node) => (node.subgraph ? all(node.subgraph.nodes) : [node]));
        return all(app.graph._nodes).filter((n) => n.type === 'KSampler').map((n) => n.widgets.find((w) => w.name === 'seed').value);
    }""")
    assert seeds == [1, 1]  # the shipped noise must not change after a run
    keep_screenshot(page, "template_finished", tmp_path)
