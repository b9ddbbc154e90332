"""A training of another process in the side bar of this page."""

from __future__ import annotations

import json

from posttrain.tests.host.headless_runs import LONGEST, Headless
from posttrain.tests.host.spine_graph import spine
from posttrain.tests.page.actions import faults, keep_screenshot, wait_status
from posttrain.tests.page.test_steering import SIDE, open_side_bar, press

KEY = "0123456789abcdef"


def test_a_training_elsewhere_is_watched_paused_and_cancelled_from_the_side_bar(page, host, tmp_path, monkeypatch):
    settings = host.base / "user" / "posttrain.json"
    settings.write_text(json.dumps({"page_key": KEY}))  # read anew by each request
    monkeypatch.setenv("POSTTRAIN_PAGE_KEY", KEY)
    far = Headless(tmp_path / "far")
    process = far.start(spine("far", 500), options=("--page", host.url))
    try:
        page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
        page.locator(f"{SIDE} .pt-run-button", has_text="spine far @ ").first.wait_for(timeout=1000 * LONGEST)
        open_side_bar(page, "spine far @ ")
        wait_status(page, "Training: iteration", SIDE)
        page.wait_for_function("() => document.querySelector('.pt-sidebar .pt-reward canvas')")
        page.locator(f"{SIDE} .pt-samples img").first.wait_for(timeout=120_000)
        press(page, "Pause")
        wait_status(page, "Paused after iteration", SIDE)
        keep_screenshot(page, "elsewhere_paused", tmp_path)
        press(page, "Go on")
        wait_status(page, "Training: iteration", SIDE)
        press(page, "Cancel")
        assert process.wait(LONGEST) == 130
        wait_status(page, "Cancelled after iteration", SIDE)
        keep_screenshot(page, "elsewhere_cancelled", tmp_path)
        assert not faults(page)
    finally:
        settings.unlink()
        process.kill()
        process.wait()
