"""The shipped blocks: offered in the page's node library, dropped from there, and run on the demo's model."""

from __future__ import annotations

import json
import math

from posttrain.tests.page.actions import faults, fit, in_chinese, keep_screenshot, wait_until
from posttrain.tests.page.conftest import CLOSE, READY
from posttrain.tests.page.small_files import write_pickscore
from posttrain.tools.block import graph
from posttrain.tools.blocks import BLOCKS
from posttrain.tools.chinese import HAN
from posttrain.tools.host import PACK
from posttrain.tools.make_blocks import convert, path
from posttrain.tools.rater import Rater, brightest
from posttrain.tools.templates_own import ONE_BLOCK
from posttrain.tools.training import load_workflow

TRAINING = [block.name for block in BLOCKS if "iterations" in block.fold.inputs]
SIZE, PIXELS = 24, 8  # of the demo's pictures; what KSampler's empty latents take for one of them
SMALL = {
    "PTSampling": {"steps": 3, "prompts_per_iteration": 2, "images_per_prompt": 4},
    "PTPairBatch": {"pairs_per_iteration": 8},
    "PTCreatePolicy": {"rank": 4},
    "PTTrain": {"when_run_exists": "start over"},
    "PTLoopStart": {"when_run_exists": "start over"},
}
# widgets as a user sets them on the blocks; what a block does not show is left out
TYPED = {
    "width": SIZE,
    "height": SIZE,
    "pictures at once": 8,
    "iterations": 1,
    "pictures of each": 2,
    "steps": 2,
    "guidance": 1,
}
UNTRANSLATED = ("clip", "vae", "LoRA")
SEARCH = "Workspace.SearchBox.Toggle"
WIRED = """([typed, pixels]) => {
    const add = (type) => { const node = LiteGraph.createNode(type); app.graph.add(node); return node; };
    const blocks = Object.fromEntries(app.graph._nodes.map((node) => [node.title, node]));
    const wire = (from, output, to, input) => from.connect(output, to, to.inputs.findIndex((one) => one.name === input));
    const world = add("PTDemoWorld"), pictures = add("PTDemoPictures"), shown = [add("PreviewImage"), add("PreviewImage")];
    pictures.widgets.find((widget) => widget.name === "count").value = 12;
    for (const [name, block] of Object.entries(blocks)) {
        ["model", "clip", "vae"].forEach((input, output) => wire(world, output, block, input));
        for (const widget of block.widgets) widget.value = typed[widget.name] ?? widget.value;
        const run = block.widgets.find((widget) => widget.name === "run name");
        if (run) run.value = name;
    }
    const after = blocks["Before and after"];
    for (const widget of after.widgets) if (["width", "height"].includes(widget.name)) widget.value *= pixels;
    wire(pictures, 0, blocks["Learn from pairs"], "folder");
    wire(blocks["Learn from pairs"], 0, after, "trained model");
    wire(blocks["Learn from pairs"], 1, blocks["Score and compare"], "LoRA");
    shown.forEach((node, output) => after.connect(output, node, 0));
    for (const block of Object.values(blocks))
        if (block.outputs.some(({ name }) => name === "curve")) {
            shown.push(add("PreviewImage"));
            block.connect(block.outputs.findIndex(({ name }) => name === "curve"), shown.at(-1), 0);
            shown.at(-1).title = `Curve of ${block.title}`;
        }
    [world, pictures, ...shown].forEach((node, place) => { node.pos = [-900 + (place % 2) * 420, Math.floor(place / 2) * 460]; });
    app.canvas.deselectAll();
}"""


# where to rest over a widget, to the right of its name, which is a socket's; and the words that a text box has of its own
OVER = """(place) => {
    const node = app.graph._nodes.at(-1), widget = node.widgets[place], view = app.canvas.ds;
    view.scale = 1;
    view.offset = [400 - node.pos[0], 150 - node.pos[1]];
    app.canvas.deselectAll();
    app.canvas.draw(true, true);
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return [canvas.x + 400 + node.size[0] - 40, canvas.y + 150 + (widget.last_y ?? widget.y) + 10, widget.element?.title ?? null];
}"""


def placed(page) -> bool:
    """Newer pages let a new node hang on the mouse until a click, which the closing search box may take."""
    hangs = "!!app.graph._nodes.at(-1).flags.ghost"
    if page.evaluate(hangs):
        page.mouse.click(250, 800)
        page.wait_for_timeout(1500)
    return not page.evaluate(hangs)


def dropped(page, name: str) -> dict:
    """Puts a block on the page as a user does, by the search box, and tells what is there."""
    before = page.evaluate("app.graph._nodes.length")
    page.evaluate("(search) => app.extensionManager.command.execute(search)", SEARCH)
    page.wait_for_function("() => document.activeElement.tagName === 'INPUT'", timeout=20_000)
    page.keyboard.type(name)
    page.wait_for_timeout(1000)
    page.keyboard.press("Enter")
    wait_until(page, lambda: page.evaluate("app.graph._nodes.length") > before, 20)
    wait_until(page, lambda: placed(page), 40)
    page.wait_for_timeout(500)
    return page.evaluate(
        """(place) => {
        const node = app.graph._nodes.at(-1);
        node.pos = [(place % 3) * 420, Math.floor(place / 3) * 460];
        return { title: node.title, inside: node.subgraph.nodes.length, widgets: (node.widgets ?? []).map((one) => one.name),
            sockets: node.inputs.filter((one) => !one.widget).map((one) => one.name), outputs: node.outputs.map((one) => one.name) };
    }""",
        before,
    )


def explained(page, place: int) -> str:
    """The widget's own tooltip, once a mouse rests on it; over a text box it is the browser's."""
    x, y, title = page.evaluate(OVER, place)
    if title is not None:
        return title
    page.mouse.move(1390, 840)  # from elsewhere on the canvas
    page.mouse.move(x, y, steps=3)
    own = "(place) => app.graph._nodes.at(-1).widgets[place].tooltip ?? ''"
    seen = page.locator(".node-tooltip")
    wait_until(page, lambda: seen.is_visible() and seen.inner_text().split() == page.evaluate(own, place).split(), 20)
    return seen.inner_text()


def without_ids(prompt: dict) -> list[str]:
    """The nodes of a prompt, as they can be compared with those of another: kinds and links' kinds, in order."""

    def linked(value):
        whole = type(value) is int  # the page writes 1.0 as 1
        return prompt[value[0]]["class_type"] if isinstance(value, list) else float(value) if whole else value

    return sorted(json.dumps([content["class_type"], {name: linked(value) for name, value in sorted(content["inputs"].items())}])
                  for content in prompt.values())  # fmt: skip


def is_widget(inside: dict, node: str, name: str) -> bool:
    """Whether an input of a node in a block is a widget there."""
    return name in inside[node]["inputs"]


def test_they_are_up_to_date_and_served(page, host):
    """Made anew they are the same files: python -m tools.make_blocks."""
    offered = host.object_info()
    served = {entry["name"]: number for number, entry in host.get("/global_subgraphs").json().items()
              if entry["info"]["node_pack"].endswith(PACK)}  # fmt: skip
    assert sorted(served) == sorted(block.name for block in BLOCKS)
    for block in BLOCKS:
        shipped = path(block).read_text(encoding="utf-8")
        assert convert(page, block, offered) == shipped
        assert host.get(f"/global_subgraphs/{served[block.name]}").json()["data"] == shipped


def test_they_are_dropped_and_run(page, host, tmp_path):
    """Every block at once, for one iteration: each hangs on the demo's model, three of them on each other."""
    offered = host.object_info()
    page.evaluate("app.graph.clear()")
    for block in BLOCKS:
        inside = graph(block, offered)
        widgets = [name for name, (socket, *_) in block.fold.inputs.items() if is_widget(inside, *socket.split("."))]
        found = dropped(page, block.name)
        page.evaluate(CLOSE)  # of what newer pages say of themselves, over the graph
        for place, widget in enumerate(widgets):
            assert len(explained(page, place)) > 10, (block.name, widget)
        keep_screenshot(page, f"dropped_{block.name.lower().replace(' ', '_')}", tmp_path)
        assert found == {"title": block.name, "inside": len(block.fold.nodes), "widgets": widgets,
                         "sockets": [name for name in block.fold.inputs if name not in widgets],
                         "outputs": list(block.fold.outputs)}  # fmt: skip
    alone = page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    expected = [node for block in BLOCKS for node in without_ids(graph(block, offered))]
    assert without_ids(alone) == sorted(expected)
    page.evaluate(WIRED, [TYPED, PIXELS])
    fit(page)
    keep_screenshot(page, "blocks", tmp_path)
    prompt = page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    for node in prompt.values():
        node["inputs"].update(SMALL.get(node["class_type"], {}))
    write_pickscore(host.base)
    with Rater(host, brightest) as rater:
        result = host.run(prompt)
    assert result.event == "success" and len(rater.seen) == 1, result.text
    for name in TRAINING:
        (line,) = (host.base / "output" / "posttrain" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        line = json.loads(line)
        assert line["iteration"] == 1 and line["updates"] > 0 and math.isfinite(line["grad_norm"])
        assert (host.base / "models" / "loras" / "posttrain" / f"{name}.safetensors").is_file()
    previews = [
        len(result.outputs[node]["images"]) for node, content in prompt.items() if content["class_type"] == "PreviewImage"
    ]
    assert sorted(previews) == [1] * len(TRAINING) + [2, 2], "a curve of each training, and before and after"
    assert faults(page) == []


def test_they_speak_chinese_and_a_graph_saved_so_is_english_again(page):
    every = "() => { const node = app.graph._nodes.at(-1); return [node.widgets.map((one) => one.label), node.inputs.map((one) => one.localized_name)]; }"
    block = BLOCKS[-1]
    with in_chinese(page):
        page.evaluate(CLOSE)
        page.evaluate("app.graph.clear()")  # of the graph that the page begins with
        dropped(page, block.name)
        page.wait_for_timeout(300)
        widgets, inputs = page.evaluate(every)
        assert len(widgets) >= 5 and all(HAN.search(label) for label in widgets)
        assert all(HAN.search(name) for name in inputs if name not in UNTRANSLATED)
        saved = page.evaluate("JSON.stringify(app.graph.serialize())")
    page.reload()
    page.wait_for_function(READY, timeout=60_000)
    page.wait_for_timeout(1000)
    page.evaluate("(saved) => app.loadGraphData(JSON.parse(saved))", saved)
    page.wait_for_timeout(500)
    assert page.evaluate(every)[1] == list(block.fold.inputs)


def test_the_template_of_one_block_is_made_of_blocks(host):
    """Its training and its pictures are those of the blocks, but for the name of the run."""
    offered, template = host.object_info(), load_workflow("own_model", {"PTTrain.run_name": "my run"})
    held = [block for block in BLOCKS if block.fold in ONE_BLOCK.folds]
    assert [block.name for block in held] == ["Train with a reward", "Before and after"]
    for node, content in {node: content for block in held for node, content in graph(block, offered).items()}.items():
        there = template.pop(node)
        assert there["class_type"] == content["class_type"] and there["inputs"].items() >= content["inputs"].items()
    assert sorted(content["class_type"] for content in template.values()) == [
        "CheckpointLoaderSimple",
        *["PreviewImage"] * 3,
    ]
