"""What nodes answer, on the nodes themselves: words, tables, and the ensemble's advice."""
from __future__ import annotations

from posttrain.tests.page.actions import faults, fit, keep_screenshot, open_graph, queue, source, wait_until

READ = """(kind) => {
    const node = app.graph._nodes.find((one) => one.type === kind);
    const root = node.widgets?.find((widget) => widget.name === 'answer')?.element;
    return root && { words: [...root.querySelectorAll('.pt-words')].map((one) => one.innerText),
        heads: [...root.querySelectorAll('th')].map((one) => one.innerText),
        rows: root.querySelectorAll('tbody tr').length, seen: root.getClientRects().length > 0 };
}"""


def answered(page, kind: str) -> dict:
    """What the node of this class shows, once it does."""
    wait_until(page, lambda: page.evaluate(READ, kind))
    return page.evaluate(READ, kind)


def test_a_table_and_words_stand_on_the_node(page, tmp_path):
    open_graph(page, source("score_a_folder"))
    queue(page)
    shown = answered(page, "PTScoreFolder")
    assert shown["seen"] and shown["heads"] == ["image", "score", "prompt"] and shown["rows"] == 48
    assert shown["words"][0].startswith("mean ") and "looks at the image alone" in shown["words"][1]
    keep_screenshot(page, "answer_of_score_folder", tmp_path)
    assert faults(page) == []


def test_the_ensemble_says_that_it_has_no_monitor(page, tmp_path):
    """It is no output node: its advice is shown all the same, and follows what is wired."""
    graph = source("ensemble_with_veto")
    ensemble = next(content for content in graph.values() if content["class_type"] == "PTRewardEnsemble")
    watched = {name for name, link in ensemble["inputs"].items()
               if isinstance(link, list) and graph[link[0]]["inputs"].get("role") == "monitor"}
    assert len(watched) == 1
    open_graph(page, graph)
    queue(page)
    assert "No monitor" not in answered(page, "PTRewardEnsemble")["words"][0]
    for name in watched:
        del ensemble["inputs"][name]
    open_graph(page, graph)
    queue(page)
    shown = answered(page, "PTRewardEnsemble")
    assert shown["seen"] and "No monitor: connect one reward" in shown["words"][0]
    fit(page)
    keep_screenshot(page, "answer_of_the_ensemble", tmp_path)
