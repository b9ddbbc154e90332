"""Every shipped template where the page draws nodes as elements, which makes them higher than on the canvas."""

from __future__ import annotations

import json

import pytest
from posttrain.tests.page.actions import fit, keep_screenshot, nodes_2
from posttrain.tests.page.templates import EACH, NO_COMPLAINT, complaints_of, keep_apart, opened, shipped

# [id, left, top, right, bottom] of the nodes as the browser has laid them out, and the groups, in units of the graph
DRAWN = """async () => {
    for (let frame = 0; frame < 4; frame++) await new Promise(requestAnimationFrame);  // a busy machine draws seldom
    const { scale, offset } = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    const place = (x, y) => [(x - canvas.x) / scale - offset[0], (y - canvas.y) / scale - offset[1]].map(Math.round);
    const boxes = [...document.querySelectorAll('[data-node-id]')].map((element) => {
        const box = element.getBoundingClientRect();
        return [element.dataset.nodeId, ...place(box.left, box.top), ...place(box.right, box.bottom)];
    });
    return [boxes, app.graph._groups.map(({ pos, size }) => [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]])];
}"""


@pytest.fixture(scope="module")
def elements(lasting_page):
    """The page that draws so, for all of these tests."""
    with nodes_2(lasting_page):
        yield lasting_page


def drawn_at_rest(page) -> list:
    """What is drawn, once it has stopped moving: a busy machine lays the nodes out late."""
    last, found = None, page.evaluate(DRAWN)
    for _ in range(30):
        page.wait_for_timeout(800)
        last, found = found, page.evaluate(DRAWN)
        if found == last:
            break
    assert found == last, "the page never comes to rest"
    return found


@EACH
def test_nodes_keep_apart(elements, template, tmp_path):
    """Each stays clear of the others, and inside its group."""
    assert complaints_of(opened(elements, template, as_graph=True), template) == NO_COMPLAINT
    boxes, groups = drawn_at_rest(elements)  # before any zoom: the page misplaces a node that grows while it zooms
    fit(elements)
    keep_screenshot(elements, f"nodes_2_{template.source}", tmp_path)
    assert len(boxes) == len(json.loads(shipped(template))["nodes"]) and all(right > left for _, left, _, right, _ in boxes)
    keep_apart({one: a for one, *a in boxes})
    for one, *a in boxes:
        assert any(g[0] <= a[0] and g[1] <= a[1] and a[2] <= g[2] and a[3] <= g[3] for g in groups), (
            f"node {one} leaves its group: {a}, {groups}"
        )
