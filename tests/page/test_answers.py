"""What nodes answer, on the nodes themselves: words, tables, and the ensemble's advice."""
from __future__ import annotations

import re

from posttrain.tests.page.actions import faults, fit, in_chinese, keep_screenshot, open_graph, queue, source, wait_until

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


def test_answers_are_in_chinese_where_the_page_is(page, tmp_path):
    """Words, what a reward is, heads of tables and the numbers that are recommended; names stay as they are."""
    with in_chinese(page):
        open_graph(page, source("score_a_folder"))
        queue(page)
        shown = answered(page, "PTScoreFolder")
        assert shown["heads"] == ["图像", "得分", "提示词"]
        assert shown["words"][0].startswith("均值 ") and "只看图像" in shown["words"][1]
        graph = source("ensemble_with_veto")
        training = {content["class_type"]: content for content in source("learn_to_follow_prompts_flow_grpo").values()}
        inputs = {name: value for name, value in training["PTCreatePolicy"]["inputs"].items() if not isinstance(value, list)}
        graph |= {"demo": training["PTDemoWorld"], "policy": {"class_type": "PTCreatePolicy",
                                                              "inputs": inputs | {"model": ["demo", 0]}}}  # fmt: skip
        open_graph(page, graph)
        queue(page)
        notes, made = answered(page, "PTRewardEnsemble"), answered(page, "PTCreatePolicy")
        assert made["heads"] == ["参数", "推荐值", "来源"] and made["words"][0].startswith("您的模型是流模型")
        english = [line for shown in (notes, made) for words in shown["words"] for line in words.split("\n")
                   if not re.search("[\u4e00-\u9fff]", line)]  # fmt: skip
        assert len(english) <= 1, english  # the ensemble's members and roles, by name
        fit(page)
        keep_screenshot(page, "answers_in_chinese", tmp_path)
    assert faults(page) == []
