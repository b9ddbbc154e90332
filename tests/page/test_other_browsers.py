"""Firefox and WebKitGTK, Safari's engine: a newcomer's path, rating by keys, the live curve, the side bar. By develop.py test
--browsers."""

from __future__ import annotations

import json
import os
import time

import pytest
from posttrain.tests.page.actions import CLOSE_BUTTONS, DIALOGS, one_node_graph, stop_all
from posttrain.tests.page.app_mode import (
    CHOSEN,
    CURVE_SEEN,
    KNOWS_APPS,
    LOADERS_MENU,
    MENUS,
    PANEL,
    QUEUE_BUTTON,
    RUN_BUTTON,
    SET,
    SMALL,
    TEMPLATE,
    TOUR,
    iterations_kept,
)
from posttrain.tests.page.other_browsers import Firefox, WebKit
from posttrain.tools.browser import OTHERS
from posttrain.tools.host import PACK
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
# the middle of an element, brought into sight: one of a selector (of all, or with this text alone in it), the first or the last
MIDDLE = """(([selector, text, last]) => {
    const inside = (element) => [...element.querySelectorAll('*')];
    const said = ({ textContent }) => textContent.trim().startsWith(text);
    const found = [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility())
        .flatMap((element) => (text ? [element, ...inside(element)].filter((one) => said(one) && !inside(one).some(said)) : [element]));
    const chosen = found.at(last ? -1 : 0);
    chosen?.scrollIntoView({ block: 'center' });
    const box = chosen?.getBoundingClientRect();
    return box?.width ? [box.x + box.width / 2, box.y + box.height / 2] : null;
})(%s)"""
FIT = "app.extensionManager.command.execute('Comfy.Canvas.FitView')"
CURVE_DRAWN = "document.querySelector('.pt-node .pt-reward canvas')?.width > 0"
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
    browser.ask(FIT)
    browser.ask("void app.queuePrompt(0, 1)")
    for sheet in (1, 2, 1, 2):  # two iterations of two prompts
        wait(browser, f"document.querySelector('{DIALOG} .pt-hint')?.textContent.startsWith('Prompt {sheet} of 2')")
        wait(browser, f"[...document.querySelectorAll('{DIALOG} img:not(.pt-hidden)')].every((image) => image.naturalWidth)")
        browser.press("1")
        wait(browser, f"document.querySelector('{DIALOG} .pt-rate-hint').textContent.startsWith('And which is the worst')")
        browser.press("3")
    wait(browser, f"!document.querySelector('{DIALOG}')")
    wait(browser, "document.querySelector('.pt-node .pt-status')?.textContent === 'Finished: 2 iterations'")
    assert wait(browser, DRAWN % ".pt-node .pt-reward") > 200
    browser.ask("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
    wait(browser, f"document.querySelector('.pt-sidebar')?.textContent.includes({json.dumps(run)})")
    assert wait(browser, DRAWN % ".pt-sidebar .pt-reward") > 200


def click(browser, selector: str, text: str = "", last: bool = False) -> None:
    middle = MIDDLE % json.dumps([selector, text, last])
    before = wait(browser, middle)
    while (now := wait(browser, middle)) != before:  # until it has come to rest
        before = now
    browser.click(*now)


def choose_model(browser, name: str) -> None:
    if KNOWS_APPS:
        click(browser, MENUS)
    else:
        browser.click(*browser.ask(f"({LOADERS_MENU})()"))
    click(browser, "body", name, last=True)
    wait(browser, f"{CHOSEN} === {json.dumps(name)}")


def test_from_the_templates_to_a_curve(browser, host, own_model):
    """As test_newcomer has it in Chromium."""
    browser.ask("void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    click(browser, DIALOGS, PACK)
    click(browser, DIALOGS, TEMPLATE.name)
    wait(browser, "app.graph.nodes.some((node) => node.type === 'PTTrain')")
    time.sleep(3)
    if browser.ask(f"!!document.querySelector('{TOUR}')"):
        browser.press("\ue00c")  # Escape
        wait(browser, f"!document.querySelector('{TOUR}')")
    browser.ask(f"document.querySelectorAll('{CLOSE_BUTTONS}').forEach((button) => button.click())")
    assert browser.ask(f"!!document.querySelector('{PANEL}')") == KNOWS_APPS
    browser.ask(f"({SET})({json.dumps(SMALL)})")
    choose_model(browser, own_model)
    click(browser, *((RUN_BUTTON, "", True) if KNOWS_APPS else (QUEUE_BUTTON,)))
    if not KNOWS_APPS:
        browser.ask(FIT)
    wait(browser, f"({CURVE_SEEN})()" if KNOWS_APPS else CURVE_DRAWN)
    wait(browser, "fetch('/queue').then((answer) => answer.json()).then((queue) => !queue.queue_running.length)")
    assert iterations_kept(host) == SMALL["PTTrain"]["iterations"]
