"""ComfyUI's real page takes the pack in: its scripts run, and every node can be placed."""
from __future__ import annotations

import pytest
from posttrain.tests.page.actions import DIALOGS, EXTENSION, ISSUES, TOASTS
from posttrain.tools.host import PACK

NODES = "Object.keys(LiteGraph.registered_node_types)"


@pytest.fixture
def placeable(host) -> list[str]:
    """The pack's nodes that a user can find in the menu."""
    return sorted(name for name, info in host.object_info().items()
                  if name.startswith("PT") and not info.get("deprecated"))


def test_scripts_load_without_an_error(page, host):
    assert any(path.endswith("/main.js") for path in host.get("/extensions").json() if PACK in path)
    assert page.evaluate("app.extensions.some(extension => extension.name.startsWith('posttrain'))")
    assert not [fault for fault in page.faults if "posttrain" in fault.lower() or "Uncaught" in fault]


def test_every_node_can_be_placed(page, placeable):
    assert len(placeable) > 20
    assert not set(placeable) - set(page.evaluate(NODES))
    unlike = page.evaluate("""(kinds) => kinds.filter((kind) => {
        const node = LiteGraph.createNode(kind);
        app.graph.add(node);
        return node.type !== kind || node.inputs === undefined || !node.title || node.title === kind;
    })""", placeable)
    assert not unlike
    page.wait_for_timeout(500)
    assert not [fault for fault in page.faults if "posttrain" in fault.lower() or "Uncaught" in fault]


def test_nothing_covers_the_page(page):
    """A first visit must not begin with a dialog: tests and `develop.py serve` write the setting for that."""
    assert page.locator(DIALOGS).count() == 0


def test_toasts_dialogs_and_issues_are_found_where_this_page_shows_them(page):
    """The other tests look for complaints there: on a page that calls them otherwise they would find none."""
    page.evaluate("app.extensionManager.toast.add({ severity: 'info', summary: 'Here', detail: 'I am', life: 60000 })")
    page.locator(TOASTS, has_text="I am").first.wait_for(timeout=10_000)
    page.evaluate("""() => app.loadGraphData({ nodes: [{ id: 1, type: 'NobodyKnowsIt', pos: [0, 0], size: [100, 100] }], links: [],
        groups: [], version: 0.4, last_node_id: 1, last_link_id: 0 })""")
    page.locator(f"{DIALOGS}, {ISSUES}").first.wait_for(timeout=20_000)
    page.keyboard.press("Escape")
    page.evaluate("app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.locator(DIALOGS).first.wait_for(timeout=20_000)


def test_charts_are_drawn_where_the_browsers_language_is_none(page):
    """As "C", which some browsers answer: numbers cannot be written in it, and uPlot asks for that while it is loaded."""
    page.add_init_script("Object.defineProperty(Navigator.prototype, 'language', {get: () => 'C', configurable: true})")
    page.reload()
    page.wait_for_function("() => window.app?.graph && document.querySelector('#graph-canvas')", timeout=60_000)
    seen = page.evaluate("""async (url) => {
        const charts = await import(url);
        const box = Object.assign(document.createElement("div"), { style: "width: 300px; height: 150px" });
        document.body.append(box);
        const chart = charts.createChart(box, () => {});
        chart.set({ lines: [charts.lineOf([{iteration: 1, r: 0.5}, {iteration: 2, r: 0.7}], "r", {colour: "#25a26f"})], log: false,
                    marks: [] });
        for (let i = 0; i < 100 && !box.querySelector("canvas"); i++) await new Promise((done) => setTimeout(done, 50));
        return [navigator.language, box.querySelector("canvas")?.width > 100];
    }""", f"{EXTENSION}/charts.js")
    assert seen == ["C", True]
    assert not [fault for fault in page.faults if "posttrain" in fault.lower() or "language" in fault]
