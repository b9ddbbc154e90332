"""A real Chromium on the page of a real ComfyUI server."""
from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
from posttrain.tests.page.actions import CLOSE_BUTTONS
from posttrain.tools import browser
from posttrain.tools.host import Host

READY = "() => window.app?.extensionManager && app.graph && app.canvas && document.querySelector('#graph-canvas')"
CLOSE = f"() => document.querySelectorAll('{CLOSE_BUTTONS}').forEach(button => button.click())"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.page)


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """The server behind the page, shared by the page tests."""
    with Host(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="module")
def own_model(host):
    """A newcomer's checkpoint by its name, and the file of the goal that the template's note asks for; both small."""
    from posttrain.tests.page.small_files import write_checkpoint, write_pickscore

    write_pickscore(host.base)
    file = write_checkpoint(host.base / "models" / "checkpoints" / "zz_my_model.safetensors")
    yield file.name
    file.unlink()


@pytest.fixture(scope="session")
def chromium():
    """The browser. A machine without one fails: `python develop.py test` installs it."""
    from playwright.sync_api import sync_playwright

    path = browser.find()
    if path is None:
        pytest.fail("No Chromium on this machine. Run `python develop.py test`, which installs one.")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=[
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"])
        yield running
        running.close()


@pytest.fixture
def page(chromium, host):
    """The page, loaded and without dialogs. ``page.faults`` lists its JavaScript errors and console errors."""
    with loaded(chromium, host) as opened:
        yield opened


@pytest.fixture(scope="module")
def lasting_page(chromium, host):
    """The same for all tests of a file, for those that do nothing but load a graph."""
    with loaded(chromium, host) as opened:
        yield opened


@contextmanager
def loaded(chromium, host):
    context = chromium.new_context(viewport={"width": 1400, "height": 850})
    opened = context.new_page()
    opened.faults = []
    opened.on("pageerror", lambda error: opened.faults.append(str(error)))
    opened.on("console", lambda line: opened.faults.append(line.text) if line.type == "error" else None)
    opened.goto(host.url, timeout=120_000)
    opened.wait_for_function(READY, timeout=120_000)
    opened.wait_for_timeout(1000)
    opened.evaluate(CLOSE)
    yield opened
    context.close()
