"""Makes the shipped templates: workflows/api/*.json (the reviewed source) -> workflows/*.json and a thumbnail each.

    python -m tools.make_templates [name] [--train] [--base DIR]      (inside develop.py's environment)

The conversion happens in the real page of a real ComfyUI, so what it writes is what the page itself would save. A
second run writes nothing, unless a source or a layout has changed. --train runs the workflow in the page and makes the
thumbnail anew, with its curve and pictures; without it a thumbnail that is there is kept. --base keeps the run there, so
that training twice costs nothing.
"""
from __future__ import annotations

import argparse
import io
import json
import tempfile
import uuid
from pathlib import Path

from . import browser, template_file, template_fold, template_places, template_view
from .host import ROOT, Host
from .templates import TEMPLATES, Template

WORKFLOWS = ROOT / "workflows"
LAYOUT = Path(__file__).with_name("template_layout.js")
NAMESPACE = uuid.UUID("7b5f1f0e-2f4b-4d0e-9a57-706f73747472")
VIEW = {"width": 1400, "height": 1000}
HEIGHT, GAP, BACKGROUND = 640, 16, (24, 24, 24)  # of a thumbnail, in pixels
HOUR_MS = 3_600_000
FAREWELL_MS = 8_000  # after which the page no longer says that a job has ended
READY = "() => window.app?.extensionManager && app.graph && app.canvas && document.querySelector('#graph-canvas')"
# only the graph belongs into a thumbnail
BARE = """() => document.head.append(Object.assign(document.createElement('style'), {textContent: `
    .p-toast, .comfyui-body-top, .comfyui-body-left, .side-tool-bar-container, .graph-canvas-panel,
    .litegraph-minimap, .p-dialog-mask, .actionbar-container { visibility: hidden !important }`}))"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="one file of workflows/api, without .json (default: all)")
    parser.add_argument("--train", action="store_true", help="run the workflow, and make the thumbnail anew")
    parser.add_argument("--base", type=Path, help="ComfyUI's base directory (default: a temporary one)")
    chosen = parser.parse_args()
    templates = [template for template in TEMPLATES if chosen.source in (None, template.source)]
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright, \
            Host(chosen.base or Path(temporary)) as host:
        page = opened(playwright, host)
        page.evaluate(BARE)
        for template in templates:
            print(f"{template.name}: {make(page, template, chosen.train)}", flush=True)
        page.context.browser.close()


def opened(playwright, host: Host):
    """The host's page in a Chromium of its own, ready for workflows."""
    chromium = playwright.chromium.launch(executable_path=browser.find(), args=["--no-sandbox", "--disable-gpu"])
    page = chromium.new_page(viewport=VIEW)
    page.goto(host.url)
    page.wait_for_function(READY, timeout=120_000)
    page.wait_for_timeout(1500)
    return page


def make(page, template: Template, train: bool = False) -> str:
    """Writes the template's two files where they changed, and says what it did."""
    text = convert(page, template)
    file, picture = WORKFLOWS / f"{template.name}.json", WORKFLOWS / f"{template.name}.jpg"
    same = file.is_file() and file.read_text(encoding="utf-8") == text
    if not same:
        file.write_text(text, encoding="utf-8")
    if not train and picture.is_file():
        return "unchanged" if same else "written, its picture kept"
    page.evaluate("(text) => app.loadGraphData(JSON.parse(text))", text)
    page.wait_for_timeout(1000)
    if train:
        run(page)
    picture.write_bytes(photograph(page, template.picture))
    return "written"


def run(page) -> None:
    """Queues the workflow as a user would, and waits. RuntimeError where it fails."""
    page.evaluate("""() => {
        window.ended = null;
        for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
            app.api.addEventListener(kind, (event) => { window.ended = [kind, event.detail.exception_message ?? ''] });
        return app.queuePrompt(0, 1).then(() => {
            if (Object.keys(app.lastNodeErrors ?? {}).length)
                window.ended = ['refused', JSON.stringify(app.lastNodeErrors)];
        });
    }""")
    page.wait_for_function("() => window.ended", timeout=HOUR_MS)
    kind, message = page.evaluate("window.ended")
    if kind != "execution_success":
        raise RuntimeError(f"{kind}: {message}")
    page.wait_for_timeout(FAREWELL_MS)


def convert(page, template: Template) -> str:
    """The page's own JSON of the source, laid out. ValueError where a node is missing from the layout."""
    api = json.loads((WORKFLOWS / "api" / f"{template.source}.json").read_text(encoding="utf-8"))
    return finished(flat(page, api, template.name, template.note, template.sizes), template, api)


def flat(page, api: dict, name: str, note: str, sizes: dict) -> dict:
    """The page's own workflow of a graph in API format, with a note. sizes: of nodes that want their own."""
    page.evaluate("([api, name]) => app.loadApiJson(api, name)", [api, name])
    page.wait_for_timeout(800)
    page.evaluate(LAYOUT.read_text(encoding="utf-8"), [note, sizes])
    # as text: the object itself would lose its undefined values on the way, and the page would refuse the file
    return json.loads(page.evaluate("JSON.stringify(app.graph.serialize())"))


def finished(workflow: dict, template: Template, api: dict) -> str:
    """The file of a template, from the page's flat graph: folded, each node in its place."""
    template_file.same_everywhere(workflow, str(uuid.uuid5(NAMESPACE, template.source)))
    for one in template.folds:
        template_fold.fold(workflow, one, api, template.source)
    template_file.renumber_links(workflow)
    template_places.place(workflow, template)
    template_view.open_on(workflow, template)
    if template.app:
        template_file.make_app(workflow, template.app)
    return template_file.written(workflow)


def photograph(page, columns: list[list[str]]) -> bytes:
    """These nodes as they are on the page, column beside column, JPEG."""
    from PIL import Image
    stacks = [stacked([node_picture(page, node) for node in column]) for column in columns]
    stacks = [stack.resize((round(stack.width * HEIGHT / stack.height), HEIGHT), Image.Resampling.LANCZOS)
              for stack in stacks]
    sheet = Image.new("RGB", (sum(stack.width + GAP for stack in stacks) + GAP, HEIGHT + 2 * GAP), BACKGROUND)
    x = GAP
    for stack in stacks:
        sheet.paste(stack, (x, GAP))
        x += stack.width + GAP
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=85)
    return file.getvalue()


def stacked(pictures: list):
    """One picture below the other, all as wide as the first."""
    from PIL import Image
    width = pictures[0].width
    pictures = [picture.resize((width, round(picture.height * width / picture.width))) for picture in pictures]
    stack = Image.new("RGB", (width, sum(picture.height for picture in pictures) + GAP * (len(pictures) - 1)), BACKGROUND)
    y = 0
    for picture in pictures:
        stack.paste(picture, (0, y))
        y += picture.height + GAP
    return stack


def node_picture(page, node: str):
    """The node with its title, at the scale of the page."""
    from PIL import Image
    box = page.evaluate("""(id) => {
        const node = app.graph._nodes.find((one) => String(one.id) === id), view = app.canvas.ds;
        view.scale = 1;
        view.offset[0] = 420 - node.pos[0];
        view.offset[1] = 120 - node.pos[1];
        app.canvas.setDirty(true, true);
        const canvas = app.canvas.canvas.getBoundingClientRect();
        return {x: canvas.x + 420, y: canvas.y + 90, width: node.size[0], height: node.size[1] + 30};
    }""", node)
    page.wait_for_timeout(1500)
    return Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")


if __name__ == "__main__":
    main()
