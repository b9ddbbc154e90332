"""Templates for a model of one's own on the page: as apps on pages that know them, as graphs on older ones."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from posttrain.tests.page.actions import CLOSE_BUTTONS, DIALOGS, open_graph, wait_until
from posttrain.tools.host import PACK
from posttrain.tools.templates_own import OWN
from posttrain.tools.training import load_workflow, the

TEMPLATE = next(template for template in OWN if template.source == "own_sd35")
PANEL = "[data-testid=linear-widgets]"
TOUR = "[data-testid=coach-landing-overlay]"  # with which the newest pages greet the first app
MENUS = f"{PANEL} [role=combobox], {PANEL} button[aria-haspopup=listbox]"
# what the machine of a test takes, set behind the newcomer's back, who sees the recommended -1 of all but the iterations
SMALL = {
    "PTPromptList": {"text": "a red fox in fresh snow\na tiger"},
    "PTSampling": {
        "width": 64,
        "height": 64,
        "steps": 3,
        "prompts_per_iteration": 2,
        "images_per_prompt": 4,
        "noisy_steps": 2,
        "batch_size": 8,
    },
    "PTTrain": {"iterations": 3, "samples_every": 1, "when_run_exists": "start over"},
    "EmptySD3LatentImage": {"width": 64, "height": 64},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 2},
    # the same on blocks, whose widgets newer pages let have values of their own
    "Train with a reward": {
        "prompts": "a red fox in fresh snow\na tiger",
        "width": 64,
        "height": 64,
        "pictures at once": 8,
        "iterations": 3,
    },
    "Before and after": {"width": 64, "height": 64, "steps": 2},
}
FIRST = (1, 41)  # the first page that shows an app's own widgets
KNOWS_APPS = tuple(map(int, version("comfyui_frontend_package").split(".")[:2])) >= FIRST
WITH_APPS = pytest.mark.skipif(not KNOWS_APPS, reason="this page knows no apps: python develop.py test --frontend 1.58.1")
ALL = "const all = (nodes) => nodes.flatMap((node) => [node, ...all(node.subgraph?.nodes ?? [])]);"
SET = f"""(values) => {{
    {ALL}
    for (const node of all(app.graph.nodes)) {{
        const given = values[node.subgraph ? node.title : node.type] ?? {{}};
        for (const widget of node.widgets ?? []) if (widget.name in given) widget.value = given[widget.name];
    }}
}}"""
TRAINS = f"() => {{ {ALL} return all(app.graph.nodes).some((node) => node.type === 'PTTrain'); }}"
CHOSEN = "app.graph.nodes.find((one) => one.type === 'CheckpointLoaderSimple').widgets[0].value"
# brings the loader's node into sight; where its menu opens
LOADERS_MENU = """() => {
    const node = app.graph.nodes.find((one) => one.type === 'CheckpointLoaderSimple'), view = app.canvas.ds;
    view.scale = 1;
    view.offset = [300 - node.pos[0], 300 - node.pos[1]];
    app.canvas.draw(true, true);
    const canvas = app.canvas.canvas.getBoundingClientRect(), widget = node.widgets[0];
    return [canvas.x + 300 + node.size[0] / 2, canvas.y + 300 + (widget.last_y ?? widget.y) + 10];
}"""
RUN_BUTTON = "[data-testid=linear-run-button] button"  # the last one; beside it are those of the number of runs
QUEUE_BUTTON = "[data-testid=queue-button], .queue-button-group button"
# the curve as a picture, whether a preview or a file: its ground in the corner and the colour of its line somewhere
CURVE_SEEN = """() => [...document.images].some((image) => {
    if (!image.naturalWidth || !image.checkVisibility() || image.getBoundingClientRect().width < 200) return false;
    const side = 256, canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const paper = canvas.getContext("2d");
    paper.drawImage(image, 0, 0, side, side);
    const { data } = paper.getImageData(0, 0, side, side);
    const near = (at, color) => color.every((part, i) => Math.abs(data[at + i] - part) < 24);
    let line = 0;
    for (let at = 0; at < data.length; at += 4) line += near(at, [0x3f, 0xc5, 0x8c]);
    return near(0, [0x1f, 0x21, 0x26]) && line > 20;
})"""


def is_app(page) -> bool:
    return page.evaluate(f"!!document.querySelector('{PANEL}')")


def open_from_templates(page, template=TEMPLATE) -> None:
    """As a user does, by the browser of templates; what pages say of a missing file or as a greeting is put away."""
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    browser = page.locator(DIALOGS).last
    browser.get_by_text(PACK, exact=True).first.click(timeout=60_000)
    browser.get_by_text(template.name).first.click(timeout=60_000)
    wait_until(page, lambda: page.evaluate(TRAINS), 30)
    page.wait_for_timeout(1500)
    put_greetings_away(page)


def put_greetings_away(page) -> None:
    if page.locator(TOUR).count():
        page.keyboard.press("Escape")
        page.locator(TOUR).wait_for(state="detached", timeout=20_000)
    page.evaluate(f"document.querySelectorAll('{CLOSE_BUTTONS}').forEach((button) => button.click())")


def choose_model(page, name: str) -> None:
    """In the first menu of an app, or on the loader's node."""
    if is_app(page):
        page.locator(MENUS).first.click()
    else:
        page.mouse.click(*page.evaluate(LOADERS_MENU))
    page.wait_for_timeout(500)
    page.get_by_text(name).last.click()
    wait_until(page, lambda: page.evaluate(CHOSEN) == name, 10)


def press_run(page) -> None:
    if is_app(page):
        page.locator(RUN_BUTTON).last.click()
    else:
        page.locator(QUEUE_BUTTON).first.click()


def run_of(template) -> str:
    """The name that the template gives its run."""
    return the(load_workflow(template.source), "PTTrain", "run_name")


def iterations_kept(host, template=TEMPLATE) -> int:
    """How many iterations of the template's run lie on the disk."""
    return len(
        (host.base / "output" / "posttrain" / run_of(template) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    )


def pictures(page, part: str) -> list[str]:
    """Addresses of the pictures that the page shows and has loaded, with this in them."""
    return page.evaluate(
        "(part) => [...document.images].filter((one) => one.naturalWidth && one.src.includes(part)).map((one) => one.src)", part
    )


def open_as_app(page, graph: dict, widget: tuple[str, str]) -> None:
    """A graph of the API's format as an app. widget: (node, name) that it shows; its result is that node's."""
    open_graph(page, graph)
    shown = {"inputs": [[int(widget[0]), widget[1]]], "outputs": [int(widget[0])]}
    page.evaluate("""(linearData) => {
        const workflow = app.graph.serialize();
        workflow.extra = { ...workflow.extra, linearMode: true, linearData };
        return app.loadGraphData(workflow);
    }""", shown)  # fmt: skip
    page.wait_for_timeout(1500)
    put_greetings_away(page)
    assert is_app(page)
