"""Whoever sees an app alone, without graph and side bar: is told what went wrong, is asked, and rates by hand."""

from __future__ import annotations

import json
import re

import pytest
from posttrain.nodes.rewards.goal import GOALS
from posttrain.tests.page.actions import (
    ROOT,
    TOASTS,
    faults,
    in_chinese,
    iterations_known,
    keep_screenshot,
    one_node_graph,
    stop_all,
    wait_until,
)
from posttrain.tests.page.app_mode import MENUS, PANEL, SET, TEMPLATE, WITH_APPS, open_as_app, press_run, put_greetings_away
from posttrain.tools.chinese import HAN
from posttrain.tools.templates_own import ONE_BLOCK
from posttrain.tools.training import with_defaults

pytestmark = WITH_APPS

TRAIN = "6"  # in one_node_graph
LABEL = re.compile(r'"label":"([^"]*)"')
SETTINGS_CHANGED, RATING = "dialog.pt-question", "dialog.pt-rate:not(.pt-question)"


def opened(page, host, run: str, iterations: int = 2, goal: str | None = None, when: str = "start over") -> None:
    graph = one_node_graph(run, iterations)
    graph[TRAIN]["inputs"]["when_run_exists"] = when
    if goal:
        graph["7"] = {"class_type": "PTGoal", "inputs": {"goal": goal, "folder_or_words": ""}}
        graph[TRAIN]["inputs"]["reward"] = ["7", 0]
    open_as_app(page, with_defaults(graph, host.object_info()), (TRAIN, "iterations"))


def said(page) -> list[str]:
    return page.locator(TOASTS).all_inner_texts()


def test_what_went_wrong_is_said_until_the_next_run(page, host, tmp_path):
    try:
        opened(page, host, "app with errors", goal="like these pictures")
        press_run(page)
        wait_until(page, lambda: any("type the name of a folder of pictures" in words for words in said(page)), 20)
        assert len(said(page)) == 1, "each thing once"
        page.evaluate(SET, {"PTGoal": {"goal": "follow prompts"}})
        press_run(page)
        wait_until(page, lambda: any("Download model.safetensors of openai/clip-vit" in words for words in said(page)), 60)
        keep_screenshot(page, "app_error", tmp_path)
        assert not any("name of a folder" in words for words in said(page)), "what is mended is taken back"
        page.wait_for_timeout(9000)  # other words of ours go by themselves after eight seconds
        assert [words for words in said(page) if "openai/clip-vit" in words]
        assert faults(page) == []
    finally:
        stop_all(host)


def test_what_went_wrong_is_said_in_chinese_where_the_page_is(page, host):
    try:
        with in_chinese(page):
            opened(page, host, "app with chinese errors", goal="follow prompts")
            press_run(page)
            wait_until(page, lambda: any("没有找到它的模型文件" in words for words in said(page)), 60)
        assert faults(page) == []
    finally:
        stop_all(host)


def test_changed_settings_are_asked_about(page, host, tmp_path):
    try:
        opened(page, host, "app asked about", 1, when="continue")
        press_run(page)
        wait_until(page, lambda: iterations_known(page, "app asked about") == [1])
        page.evaluate(SET, {"PTSampling": {"seed": 5}, "PTTrain": {"iterations": 2}})
        wait_until(page, lambda: not host.get("/queue").json()["queue_running"])
        press_run(page)
        dialog = page.locator(SETTINGS_CHANGED)
        dialog.wait_for(timeout=60_000)
        keep_screenshot(page, "app_question", tmp_path)
        dialog.get_by_role("button", name="Go on with the new settings").click()
        wait_until(page, lambda: iterations_known(page, "app asked about") == [1, 2])
        assert faults(page) == []
    finally:
        stop_all(host)


def test_rating_by_hand(page, host, tmp_path):
    try:
        opened(page, host, "app rated", 1, goal="my taste")
        press_run(page)
        dialog = page.locator(RATING)
        dialog.wait_for(timeout=60_000)
        keep_screenshot(page, "app_rating", tmp_path)
        for prompt in (1, 2):
            words = f"Prompt {prompt} of 2"
            wait_until(page, lambda: dialog.locator(".pt-hint").inner_text().startswith(words), 20)
            page.keyboard.press("1")
            page.keyboard.press("3")
        wait_until(page, lambda: iterations_known(page, "app rated") == [1])
        assert not dialog.is_visible() and faults(page) == []
    finally:
        stop_all(host)


@pytest.mark.parametrize("template", [TEMPLATE, ONE_BLOCK], ids=["nodes", "block"])
def test_its_words_and_the_menu_of_goals_are_chinese_where_the_page_is(page, template, tmp_path):
    workflow = json.loads((ROOT / "workflows" / f"{template.name}.json").read_text(encoding="utf-8"))
    with in_chinese(page):
        page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
        page.locator(PANEL).wait_for(timeout=30_000)
        page.wait_for_timeout(1500)
        put_greetings_away(page)
        keep_screenshot(page, f"app_chinese_{template.source}", tmp_path)
        # the texts of the panel: what each widget is called, and of menus what is chosen
        texts = [text for text in page.locator(PANEL).inner_text().split("\n") if not text.endswith(".safetensors")]
        assert len(texts) == len(template.app.inputs) + 1, "the goal is the other menu"
        assert all(HAN.search(text) for text in texts), texts
        page.locator(MENUS).nth(1).click()
        page.wait_for_timeout(700)
        goals = page.get_by_role("option").all_inner_texts()
        assert len(goals) == len(GOALS) and all(HAN.search(goal) for goal in goals)
        page.get_by_role("option").nth(2).click()
        chosen = "app.graph.nodes.flatMap((node) => node.widgets ?? []).find(({ name }) => name === 'goal').value"
        wait_until(page, lambda: page.evaluate(chosen) == GOALS[2], 10)  # the workflow's own value
        labels = LABEL.findall(page.evaluate("JSON.stringify(app.graph.serialize())"))
        assert not [label for label in labels if HAN.search(label)], "what is saved is the same in every language"
