"""Firefox and WebKitGTK, Safari's engine: rating by keys, the live curve, the side bar. By develop.py test --browsers."""

from __future__ import annotations

import json
import os
import time

import pytest
from posttrain.tests.page.actions import one_node_graph, stop_all
from posttrain.tests.page.other_browsers import Firefox, WebKit
from posttrain.tools.browser import OTHERS
from posttrain.tools.training import with_defaults

BROWSERS = {"Firefox": Firefox, "WebKitGTK": WebKit}
READY = "!!(window.app?.extensionManager && app.graph && app.canvas && document.querySelector('#graph-canvas'))"
DIALOG = "dialog.pt-rate[open]"
# how many pixels of a canvas of ours are not of one colour, the curve's line and its axes
DRAWN = """(() => {
    const canvas = document.querySelector('%s canvas');
    if (!canvas?.width) return 0;
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let drawn = 0;
    for (let at = 3; at < data.length; at += 4) drawn += data[at] > 0;
    return drawn;
})()"""
pytestmark = pytest.mark.skipif(
    not os.environ.get(*OTHERS), reason="minutes in other browsers: python develop.py test --browsers"
)


@pytest.fixture(params=BROWSERS)
def browser(request, host, tmp_path):
    kind = BROWSERS[request.param]
    if kind.program is None:
        pytest.skip(kind.missing)
    running = kind(tmp_path / "browser")
    try:
        running.open(host.url)
        wait(running, READY)
        yield running
    finally:
        keep(running, request.param, tmp_path)
        running.close()
        stop_all(host)


def wait(browser, expression: str, seconds: float = 120):
    """What the expression becomes, once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := browser.ask(expression)):
        assert time.monotonic() < deadline, f"did not happen within {seconds} s: {expression}"
        time.sleep(0.3)
    return found


def keep(browser, name: str, fallback) -> None:
    """Where PAGE_SCREENSHOTS says, else under the test's folder."""
    folder = os.environ.get("PAGE_SCREENSHOTS") or str(fallback)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"{name}.png"), "wb") as file:
        file.write(browser.screenshot())


def rated_graph(host, run: str, seed: int) -> dict:
    """seed: pictures that were rated once come with those votes."""
    graph = one_node_graph(run, 2)
    graph["4"]["inputs"]["seed"] = seed
    graph["7"] = {"class_type": "PTGoal", "inputs": {"goal": "my taste", "folder_or_words": ""}}
    graph["6"]["inputs"]["reward"] = ["7", 0]
    return with_defaults(graph, host.object_info())


def test_rating_by_keys_the_curve_and_the_side_bar(browser, host, request):
    name = request.node.callspec.params["browser"]
    run, graph = f"in {name}", rated_graph(host, f"in {name}", 1 + list(BROWSERS).index(name))
    browser.ask(f"app.loadApiJson({json.dumps(graph)}, 'test')")
    browser.ask("app.graph.arrange(60)")
    browser.ask("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    browser.ask("void app.queuePrompt(0, 1)")
    for sheet in (1, 2, 1, 2):  # two iterations of two prompts
        wait(browser, f"document.querySelector('{DIALOG} .pt-hint')?.textContent.startsWith('Prompt {sheet} of 2')")
        wait(browser, f"[...document.querySelectorAll('{DIALOG} img')].every((image) => image.naturalWidth)")
        browser.press("1")
        wait(browser, f"document.querySelector('{DIALOG} .pt-rate-hint').textContent.startsWith('And which is the worst')")
        browser.press("3")
    wait(browser, f"!document.querySelector('{DIALOG}')")
    wait(browser, "document.querySelector('.pt-node .pt-status')?.textContent === 'Finished: 2 iterations'")
    assert wait(browser, DRAWN % ".pt-node .pt-reward") > 200
    browser.ask("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
    wait(browser, f"document.querySelector('.pt-sidebar')?.textContent.includes({json.dumps(run)})")
    assert wait(browser, DRAWN % ".pt-sidebar .pt-reward") > 200
