"""The help panel of ComfyUI shows a node's page, its picture included."""
from __future__ import annotations

import re

import pytest
from posttrain.tests.page.actions import in_chinese, keep_screenshot, wait_until
from posttrain.tools.host import ROOT

DOCS = ROOT / "web" / "docs"
PICTURED = sorted(path.stem for path in DOCS.glob("*.md") if "](images/" in path.read_text(encoding="utf-8"))
PLACE = """(kind) => {
    app.graph.clear();
    const node = LiteGraph.createNode(kind);
    app.graph.add(node);
    node.pos = [300 - app.canvas.ds.offset[0], 250 - app.canvas.ds.offset[1]];  // where the page shows it
    app.canvas.selectNode(node);
    app.canvas.setDirty(true, true);
}"""
PICTURE = """() => {
    const picture = document.querySelector('.node-help-content img');
    return picture && { source: picture.getAttribute('src'), words: picture.alt, wide: picture.naturalWidth,
        seen: picture.getClientRects().length > 0 };
}"""


@pytest.mark.parametrize("kind", ["PTFlowGRPO", "PTDiffusionDPO"])
def test_a_trainers_picture_is_in_the_help_panel(page, kind, tmp_path):
    page.evaluate(PLACE, kind)
    page.get_by_test_id("info-button").first.dispatch_event("click")
    wait_until(page, lambda: (page.evaluate(PICTURE) or {}).get("wide", 0) > 0)
    shown = page.evaluate(PICTURE)
    assert shown["seen"] and shown["wide"] == 600 and shown["words"]
    keep_screenshot(page, f"help_of_{kind}", tmp_path)


def test_a_page_is_in_chinese_where_comfyui_is(page, tmp_path):
    with in_chinese(page):
        page.evaluate(PLACE, "PTFlowGRPO")
        page.get_by_test_id("info-button").first.dispatch_event("click")
        wait_until(page, lambda: (page.evaluate(PICTURE) or {}).get("wide", 0) > 0)
        words = page.locator(".node-help-content").first.inner_text()
        assert "何时使用" in words and "学习率" in words and "When to use it" not in words
        keep_screenshot(page, "help_in_chinese", tmp_path)


@pytest.mark.parametrize("name", PICTURED)
def test_every_picture_of_a_page_is_served(host, name):
    named = re.findall(r"!\[[^\]]+\]\((images/[^)]+)\)", (DOCS / f"{name}.md").read_text(encoding="utf-8"))
    assert named
    for picture in named:
        answer = host.get(f"/extensions/ComfyUI-PostTrain/docs/{picture}")
        assert answer.ok and "svg" in answer.headers["Content-Type"] and answer.text.startswith("<svg")
