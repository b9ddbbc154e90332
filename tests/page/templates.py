"""Opens the shipped templates in the page."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from posttrain.tests.page.actions import DIALOGS, ISSUES, ROOT, TOASTS, source
from posttrain.tools.make_templates import TEMPLATES

EACH = pytest.mark.parametrize("template", TEMPLATES, ids=[template.source for template in TEMPLATES])
COMPLAINTS = """([toasts, dialogs, issues]) => ({
    toasts: [...document.querySelectorAll(toasts)].map((toast) => toast.innerText),
    dialogs: [...document.querySelectorAll(dialogs)].map((dialog) => dialog.innerText.slice(0, 200)),
    issues: [...document.querySelectorAll(issues)].map((panel) => panel.innerText.slice(0, 200)),
    missing: app.graph._nodes.map((node) => node.type)
        .filter((type) => !LiteGraph.registered_node_types[type] && type !== 'MarkdownNote'),
})"""
NO_COMPLAINT = {"toasts": [], "dialogs": [], "issues": [], "missing": []}


def shipped(template) -> str:
    return (ROOT / "workflows" / f"{template.name}.json").read_text(encoding="utf-8")


def opened(page, template, as_graph: bool = False) -> dict:
    """Loads the file as the template browser does, and returns the page's complaints. as_graph: also where it is an app.

    Newer pages greet the first app with a tour, which is no fault.
    """
    workflow = json.loads(shipped(template))
    if as_graph:
        workflow["extra"].pop("linearMode", None)
    page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
    page.wait_for_timeout(700)
    found = page.evaluate(COMPLAINTS, [TOASTS, DIALOGS, ISSUES])
    found["dialogs"] = [words for words in found["dialogs"] if not words.startswith("Welcome to Apps")]
    return found


def complaints_of(found: dict, template) -> dict:
    """But for the newest page's word of files that are not there yet, which the template's note says how to get: one is named,
    more are counted."""
    files = wanted_files(template)
    counted = [f"{len(files)} {word} found" for word in ("issues", "errors")] if len(files) > 1 else []
    expected = (*files, *counted)
    return {**found, "issues": [issue for issue in found["issues"] if not any(words in issue for words in expected)]}


def keep_apart(boxes: dict) -> None:
    """boxes: left, top, right and bottom of each node."""
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"nodes {one} and {other} overlap"


def wanted_files(template) -> list[str]:
    """Of a user's own model, which this machine does not have."""
    nodes = source(template.source).values() if template.source.startswith("own_") else ()
    return [value for node in nodes for value in node["inputs"].values() if str(value).endswith((".safetensors", ".gguf"))]
