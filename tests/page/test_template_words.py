"""A template's note, groups, titles and menus in the language of the page, whichever it was saved in."""

from __future__ import annotations

import json

from posttrain.tests.page.actions import ROOT, faults, fit, in_chinese, keep_screenshot, load_anew, wait_until
from posttrain.tools.template_words import chinese

TEMPLATE = ROOT / "workflows" / "Learn to follow prompts (Flow-GRPO).json"
LOAD = "(workflow) => app.loadGraphData(workflow)"
SAID = """() => ({ note: app.graph.nodes.find(({ type }) => type === 'MarkdownNote').widgets[0].value.split("\\n"),
    groups: app.graph.groups.map(({ title }) => title), titles: app.graph.nodes.map(({ title }) => title) })"""
IN_GROUPS = "(title) => app.graph.groups.some((group) => group.title === title)"


def opened(page, workflow: dict, group: str) -> dict:
    page.evaluate(LOAD, workflow)
    page.wait_for_function(IN_GROUPS, arg=group)
    return page.evaluate(SAID)


def test_they_are_said_in_the_pages_language_and_what_the_user_wrote_stays(page, host, tmp_path):
    workflow, known = json.loads(TEMPLATE.read_text(encoding="utf-8")), chinese()
    first, second, *_ = (group["title"] for group in workflow["groups"])
    english = opened(page, workflow, second)
    with in_chinese(page):
        said = opened(page, workflow, known[second])
        assert said["groups"] == [known[title] for title in english["groups"]]
        assert said["note"] == [known.get(line, line) for line in english["note"]] != english["note"]
        named = [node["title"] for node in workflow["nodes"] if "title" in node]
        assert named and {known[title] for title in named} <= set(said["titles"])
        fit(page)
        keep_screenshot(page, "template_in_chinese", tmp_path)
        page.evaluate("(title) => { app.graph.groups.find((group) => group.title === title).title = 'mine'; }", known[first])
        saved = json.loads(page.evaluate("JSON.stringify(app.graph.serialize())"))
    wait_until(page, lambda: host.get("/settings/Comfy.Locale").json() == "en")
    load_anew(page)
    again = opened(page, saved, second)
    assert again["note"] == english["note"] and set(again["groups"]) == {"mine", *english["groups"]} - {first}
    assert faults(page) == []


MENU = """() => {
    const node = app.graph.nodes.find(({ type }) => type === 'PTFlowGRPO');
    const { options, value } = node.widgets.find(({ name }) => name === 'trust');
    return [options.getOptionLabel?.(value) ?? value, value];
}"""


def test_menus_are_in_chinese_and_workflows_keep_their_values(page):
    workflow = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    page.evaluate(LOAD, workflow)
    assert page.evaluate(MENU) == ["clipped ratio", "clipped ratio"]
    with in_chinese(page):
        page.evaluate(LOAD, workflow)
        page.wait_for_timeout(500)
        assert page.evaluate(MENU) == ["裁剪比率（clipped ratio）", "clipped ratio"]
        output = page.evaluate("async () => (await app.graphToPrompt()).output")
        (trainer,) = [content for content in output.values() if content["class_type"] == "PTFlowGRPO"]
        assert trainer["inputs"]["trust"] == "clipped ratio"


def test_a_users_own_workflow_is_left_alone(page):
    """Its note is none of the templates', though a title may be."""
    workflow = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    note = next(node for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    note["widgets_values"] = ["my own words"]
    with in_chinese(page):
        page.evaluate(LOAD, workflow)
        page.wait_for_timeout(1000)
        said = page.evaluate(SAID)
    assert said["note"] == ["my own words"] and said["groups"] == [group["title"] for group in workflow["groups"]]
