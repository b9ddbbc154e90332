"""Rating by hand in the real page: with the keyboard, with the mouse, put away, after a reload."""
from __future__ import annotations

import json

import pytest
from posttrain.tests.page.actions import (
    faults,
    in_chinese,
    keep_screenshot,
    open_graph,
    queue,
    small_graph,
    stop_all,
    training_only,
    wait_status,
)
from posttrain.tools.graphs import swap_feedback, swap_reward, swap_trainer
from posttrain.tools.training import with_defaults

DIALOG = "dialog.pt-rate"


@pytest.fixture
def rate(page, host):
    """rate(run, iterations, mode): queues a training whose reward is whoever sits at the page."""
    def start(run: str, iterations: int, mode: str = "best and worst", images: int = 4) -> None:
        graph = training_only(small_graph(run, iterations, {"PTSampling": {"images_per_prompt": images}}))
        swap_reward(graph, human(run, mode))
        if mode == "best and worst":
            swap_trainer(graph, {"class_type": "PTDiffusionDPO", "inputs": {}})
            swap_feedback(graph, {"class_type": "PTPreferences", "inputs": {}})
        open_graph(page, with_defaults(graph, host.object_info()))
        queue(page)
        page.locator(DIALOG).wait_for(timeout=60_000)
    yield start
    stop_all(host)


def human(name: str, mode: str) -> dict:
    return {"class_type": "PTRewardHuman", "inputs": {"mode": mode, "votes_name": name, "wait_minutes": 0.0}}


def votes(host, name: str) -> list[int]:
    path = host.base / "output" / "posttrain_votes" / name / "votes.jsonl"
    return [json.loads(line)["vote"] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def hint(page) -> str:
    return page.locator(f"{DIALOG} .pt-rate-hint").inner_text()


def where(page) -> str:
    return page.locator(f"{DIALOG} .pt-hint").inner_text()


def closer_look(page) -> list[str]:
    """How each picture that is shown is enlarged."""
    return page.evaluate("(where) => [...document.querySelectorAll(`${where} .pt-rate-card:not(.pt-hidden) img`)]"
                         ".map((image) => getComputedStyle(image).transform)", DIALOG)


def wait_where(page, begin: str) -> None:
    page.wait_for_function("([where, begin]) => document.querySelector(`${where} .pt-hint`)?.textContent.startsWith(begin)",
                           arg=[DIALOG, begin], timeout=60_000)


def test_best_and_worst_by_keyboard(page, host, rate, tmp_path):
    rate("keys", 2)
    assert where(page) == "Prompt 1 of 2 · keys" and hint(page) == "Which is the best?"
    page.wait_for_function("(where) => [...document.querySelectorAll(`${where} img:not(.pt-hidden)`)].every((image) => image.naturalWidth)", arg=DIALOG)
    assert closer_look(page) == ["none"] * 4
    page.keyboard.press("z")
    page.keyboard.press("ArrowLeft")
    assert where(page).startswith("Prompt 1 of 2"), "the arrows move the spot meanwhile"
    spots = closer_look(page)
    assert len(set(spots)) == 1 and spots[0].startswith("matrix(") and float(spots[0][7:].split(",")[0]) >= 2
    keep_screenshot(page, "rating_zoom", tmp_path)
    page.keyboard.press("z")
    assert closer_look(page) == ["none"] * 4
    page.keyboard.press("2")
    assert hint(page) == "And which is the worst?"
    keep_screenshot(page, "rating", tmp_path)
    page.keyboard.press("4")
    wait_where(page, "Prompt 2 of 2")
    page.keyboard.press("Backspace")
    wait_where(page, "Prompt 1 of 2")
    assert hint(page).startswith("Judged")
    assert page.locator(f"{DIALOG} [data-vote='1'] .pt-rate-key").inner_text() == "2"
    page.keyboard.press("Enter")
    for prompt in (2, 1, 2):  # the second one of this iteration, and both of the next
        wait_where(page, f"Prompt {prompt} of 2")
        page.keyboard.press("1")
        page.keyboard.press("3")
    assert wait_status(page, "Finished") == "Finished: 2 iterations"
    assert sorted(votes(host, "keys")) == [-1] * 4 + [1] * 4
    # the mean of best and worst is always 0
    assert page.locator(".pt-node .pt-now").inner_text().startswith("Accuracy")
    assert not page.locator(DIALOG).is_visible()
    assert faults(page) == []


def test_two_images_need_one_click_and_a_choice_can_be_changed(page, host, rate):
    rate("pair", 1, images=2)
    cards = page.locator(f"{DIALOG} .pt-rate-card:visible")
    assert cards.count() == 2
    cards.nth(1).click()
    wait_where(page, "Prompt 2 of 2")
    page.locator(DIALOG).get_by_text("Back", exact=True).click()
    cards.nth(0).click()
    wait_where(page, "Prompt 2 of 2")
    page.locator(DIALOG).get_by_text("Done", exact=True).click()  # the second prompt is left out
    wait_status(page, "Finished")
    assert votes(host, "pair") in ([1, -1, 1, -1], [1, -1, -1, 1], [-1, 1, 1, -1], [-1, 1, -1, 1])


def test_thumbs_by_mouse_and_enter(page, host, rate, tmp_path):
    rate("thumbs", 1, "thumbs")
    cards = page.locator(f"{DIALOG} .pt-rate-card:visible")
    for card, clicks in ((0, 1), (1, 2), (2, 3)):
        for _ in range(clicks):
            cards.nth(card).click()
    page.wait_for_timeout(300)
    keep_screenshot(page, "thumbs", tmp_path)
    assert [cards.nth(i).get_attribute("data-vote") for i in range(4)] == ["1", "-1", "0", "0"]
    page.keyboard.press("Enter")
    wait_where(page, "Prompt 2 of 2")
    page.keyboard.press("Enter")
    wait_status(page, "Finished")
    assert votes(host, "thumbs") == [1, 1, -1, 1, -1, 0]


def test_put_away_and_reloaded_nothing_is_lost(page, host, rate):
    rate("away", 1)
    page.keyboard.press("1")
    page.keyboard.press("2")
    wait_where(page, "Prompt 2 of 2")
    page.keyboard.press("Escape")
    page.locator(DIALOG).wait_for(state="hidden")
    pill = page.locator(".pt-rate-pill")
    assert pill.inner_text() == "Rate 8 images"
    page.reload()
    page.locator(DIALOG).wait_for(timeout=60_000)
    assert where(page) == "Prompt 2 of 2 · away", "it goes on where it was"
    page.keyboard.press("Escape")
    pill.click()
    page.keyboard.press("3")
    page.keyboard.press("4")
    page.locator(DIALOG).wait_for(state="hidden")
    wait_status(page, "Finished")
    assert votes(host, "away") == [1, -1, 1, -1]


def test_a_tie_and_both_bad_of_two_images(page, host, rate, tmp_path):
    rate("equal", 1, images=2)
    dialog = page.locator(DIALOG)
    dialog.get_by_text("As good as each other", exact=True).click()
    wait_where(page, "Prompt 2 of 2")
    page.keyboard.press("Backspace")
    wait_where(page, "Prompt 1 of 2")
    assert hint(page).startswith("Judged") and dialog.locator("[aria-pressed=true]").inner_text() == "As good as each other"
    page.keyboard.press("Enter")
    wait_where(page, "Prompt 2 of 2")
    page.keyboard.press("1")
    dialog.wait_for(state="hidden")
    wait_status(page, "Finished")
    lines = (host.base / "output" / "posttrain_votes" / "equal" / "votes.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [(each["vote"], each.get("tie", False)) for each in records] in (
        [(0, True), (0, True), (1, False), (-1, False)], [(0, True), (0, True), (-1, False), (1, False)])
    assert records[0]["pair_id"] == records[1]["pair_id"] != records[2]["pair_id"]


def test_two_tabs_share_one_queue(page, host, rate):
    rate("both", 1)
    other = page.context.new_page()
    try:
        other.goto(page.url)
        other.locator(DIALOG).wait_for(timeout=60_000)
        assert (where(page), where(other)) == ("Prompt 1 of 2 · both", "Prompt 2 of 2 · both")
        other.locator(DIALOG).press("1")
        other.locator(DIALOG).press("2")
        other.locator(f"{DIALOG} .pt-rate-hint", has_text="The rest (1) is being rated elsewhere").wait_for()
        page.bring_to_front()
        page.locator(DIALOG).press("3")
        page.locator(DIALOG).press("4")
        for each in (page, other):
            each.locator(DIALOG).wait_for(state="hidden", timeout=30_000)
        wait_status(page, "Finished")
        assert votes(host, "both") == [1, -1, 1, -1]
    finally:
        other.close()


def test_pause_from_the_dialog(page, host, rate):
    rate("pause", 2)
    page.keyboard.press("1")
    page.locator(DIALOG).get_by_text("Pause the training", exact=True).click()
    assert wait_status(page, "Paused").startswith("Paused after iteration 0 of 2")
    page.locator(DIALOG).wait_for(state="hidden")
    assert votes(host, "pause") == [1]


def test_cancel_closes_the_dialog(page, host, rate):
    rate("cancel", 2)
    host.cancel()
    page.locator(DIALOG).wait_for(state="hidden", timeout=20_000)
    wait_status(page, "Cancelled")


def test_a_vote_that_cannot_be_saved_is_said_and_not_shown_as_given(page, host, rate):
    rate("unsaved", 1)
    page.route("**/posttrain/ratings/*/votes", lambda route: route.fulfill(status=500, json={"error": "the disk is full"}))
    page.keyboard.press("1")
    page.locator(f"{DIALOG} .pt-error", has_text="This was not saved: the disk is full").wait_for()
    assert page.locator(f"{DIALOG} [data-vote='1']").count() == 0
    page.unroute("**/posttrain/ratings/*/votes")
    page.keyboard.press("1")
    page.locator(f"{DIALOG} [data-vote='1']").wait_for()
    page.locator(f"{DIALOG} .pt-error").wait_for(state="hidden")


def test_a_last_vote_that_was_not_saved_does_not_end_the_question(page, host, rate):
    rate("late", 1, "thumbs")
    page.keyboard.press("Enter")
    wait_where(page, "Prompt 2 of 2")
    page.evaluate("""() => {  // the answer comes when Done is pressed already
        window.fetchApi = app.api.fetchApi;
        app.api.fetchApi = async (route, options) => {
            if (!route.endsWith('/votes')) return window.fetchApi.call(app.api, route, options);
            await new Promise((done) => setTimeout(done, 1000));
            return new Response('{"error": "the disk is full"}', { status: 500 });
        };
    }""")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.locator(f"{DIALOG} .pt-error", has_text="the disk is full").wait_for()
    assert page.locator(DIALOG).is_visible() and where(page).startswith("Prompt 2 of 2")
    page.evaluate("() => { app.api.fetchApi = window.fetchApi }")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.locator(DIALOG).wait_for(state="hidden")
    wait_status(page, "Finished")
    assert votes(host, "late") == [1]


def test_rating_speaks_chinese(page, host, rate, tmp_path):
    with in_chinese(page):
        rate("chinese", 1)
        assert hint(page) == "哪一张最好？"
        keep_screenshot(page, "rating_chinese", tmp_path)
