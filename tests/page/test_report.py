"""What a run came to, and a blind comparison of its pictures, from the side bar in the real page."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from posttrain.tests.page.actions import faults, in_chinese, keep_screenshot, wait_until
from posttrain.tests.page.test_rating import DIALOG, hint, where
from posttrain.tests.page.test_steering import CONTRAST, NAMELESS, OUTSIDE, SIDE, open_side_bar
from posttrain.trainers.run.compared import keep_compared

REPORT = f"{SIDE} .pt-report"
PROMPTS = [f"a cat number {i}" for i in range(8)]
# which of the two pictures that are shown is the lighter one, from the left
LIGHTER = """(where) => {
    const mean = (image) => {
        const canvas = Object.assign(document.createElement('canvas'), { width: 4, height: 4 });
        const pen = canvas.getContext('2d');
        pen.drawImage(image, 0, 0, 4, 4);
        return pen.getImageData(1, 1, 1, 1).data[0];
    };
    const [one, two] = [...document.querySelectorAll(`${where} .pt-rate-card:not(.pt-hidden) img`)].map(mean);
    return one > two ? 1 : 2;
}"""
DRAWN = "(where) => [...document.querySelectorAll(`${where} .pt-rate-card:not(.pt-hidden) img`)].every((i) => i.complete && i.naturalWidth)"


def measured_run(host, name: str, level: float = 0.8, prompts: list[str] = PROMPTS):
    """A run's folder as a training with Evaluate While Training leaves it: what it learned is to make them lighter."""
    folder = host.base / "output/posttrain" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"id": name, "status": "done", "iterations": 40}))
    lines = []
    for i in range(1, 41):
        line = {
            "iteration": i,
            "reward_mean": i / 40,
            "reward_std": 0.1,
            "reward/sharp": 1 - i / 80,
            "picture_variety": 0.3 - i / 500,
        }
        if not i % 20:
            line |= {"held_out_reward": 0.5 + i / 100, "held_out_base": 0.5, "held_out_gain": i / 100, "held_out_error": 0.05,
                     "held_out_fid": 10 + i / 10,
                     "blind_share": i / 50, "blind_low": i / 50 - 0.2, "blind_high": i / 50 + 0.1, "blind_pairs": 40.0}  # fmt: skip
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "held_out.json").write_text(
        json.dumps({"identity": "x", "base": [0.5] * 8, "best": {"iteration": 40, "mean": 0.9}})
    )
    (folder / "history.jsonl").write_text(json.dumps({"iteration": 30, "text": "Look at it.", "level": "warning"}) + "\n")
    for iteration, light in ((0, 0.2), (40, level)):
        noise = torch.rand(len(prompts), 32, 32, 3, generator=torch.Generator().manual_seed(iteration))
        keep_compared(folder, iteration, light + noise * 0.1, prompts)
    return folder


@pytest.fixture
def runs(host):
    if not (host.base / "output/posttrain/lighter").exists():
        measured_run(host, "lighter")
        measured_run(host, "as dark as before", level=0.25)
        measured_run(host, "of other prompts", prompts=["a dog"] * 8)
    return host.base / "output/posttrain"


def open_report(page, run: str) -> None:
    open_side_bar(page, run)
    if not page.locator(f"{REPORT}[open]").count():
        page.locator(f"{REPORT} .pt-report-title").click()
    page.locator(f"{REPORT} .pt-report-line").first.wait_for()


def answer(page, keys) -> None:
    """keys(the lighter one) -> what is pressed, for each pair until the comparison ends by itself."""
    for number in range(len(PROMPTS)):
        page.wait_for_function("([where, begin]) => document.querySelector(`${where} .pt-hint`)?.textContent.startsWith(begin)",
                               arg=[DIALOG, f"Pair {number + 1} of {len(PROMPTS)}"], timeout=60_000)  # fmt: skip
        page.wait_for_function(DRAWN, arg=DIALOG)
        page.keyboard.press(str(keys(page.evaluate(LIGHTER, DIALOG), number)))
    wait_until(page, lambda: page.keyboard.press("Enter") or not page.locator(DIALOG).is_visible(), 30)


def test_a_run_is_compared_blind_with_the_model_before_training_by_keys(page, runs, tmp_path):
    open_report(page, "lighter")
    said = page.locator(REPORT).inner_text()
    assert (
        "before training 0.5, after iteration 40 0.9. Gain 0.4, 95 % interval 0.302 to 0.498. Better, and not by chance."
        in said
    )
    assert (
        "By the node Blind Comparison, iteration 40: preferred in 80 % of 40 pairs, 95 % interval 60 % to 90 %. Better, and"
        in said
    )
    assert "Best on held-out prompts: 0.9, in iteration 40." in said and "Warnings while it trained: 1." in said
    rows = dict(page.evaluate("() => [...document.querySelectorAll('.pt-report tr')].map((row) => "
                              "[row.cells[0].textContent, [...row.cells].slice(1).map((cell) => cell.textContent).join()])"))  # fmt: skip
    assert (
        rows["Reward"] == "0.075,0.95"
        and rows["Pictures: variety"] == "0.294,0.224"
        and rows["Held-out pictures: FID"] == "12,14"
    )
    assert page.locator(f"{REPORT} option").all_inner_texts() == ["your model before training", "as dark as before"]

    page.locator(f"{REPORT} .pt-act", has_text="Compare blind with").click()
    page.locator(DIALOG).wait_for()
    assert where(page) == "Pair 1 of 8 · blind · lighter" and hint(page).startswith("Which is better?")
    shown = page.locator(DIALOG).inner_text()
    assert "training" not in shown and "40" not in shown and "Pause" not in shown, "nothing tells the sides apart"
    keep_screenshot(page, "blind", tmp_path)
    answer(page, lambda lighter, number: lighter if number < 7 else 0)
    result = page.locator(f"{REPORT} .pt-report-line", has_text="Compared blind")
    result.wait_for(timeout=30_000)
    assert result.inner_text() == ("Compared blind, iteration 40 against your model before training: preferred in 7, not in 0, 1 ties. "
                                   "Share 94 %, 95 % interval 60 % to 99 %. Better, and not by chance.")  # fmt: skip
    assert "preferred in 7, not in 0, 1 ties" in (runs / "lighter" / "report.md").read_text()
    assert faults(page) == []


def test_two_runs_are_compared_put_away_and_ended_before_all_is_judged(page, runs, tmp_path):
    open_report(page, "as dark as before")
    page.locator(f"{REPORT} select").select_option("lighter")
    page.locator(f"{REPORT} .pt-act", has_text="Compare blind with").click()
    page.locator(DIALOG).wait_for()
    page.keyboard.press("Escape")
    page.locator(".pt-rate-pill").click()
    page.wait_for_function(DRAWN, arg=DIALOG)
    page.keyboard.press(str(page.evaluate(LIGHTER, DIALOG)))
    page.wait_for_function(
        "(where) => document.querySelector(`${where} .pt-hint`).textContent.startsWith('Pair 2')", arg=DIALOG
    )
    page.locator(f"{DIALOG} .pt-button", has_text="End the comparison").click()
    result = page.locator(f"{REPORT} .pt-report-line", has_text="Compared blind")
    result.wait_for(timeout=30_000)
    assert 'against "lighter", iteration 40: preferred in 0, not in 1, 0 ties' in result.inner_text()
    assert "No difference that chance could not make." in result.inner_text()
    assert faults(page) == []


def test_it_can_be_read_in_both_themes_at_every_width_and_in_chinese(page, host, runs, tmp_path):
    from posttrain.nodes.page.report import note_blind

    shutil.rmtree(runs / "lighter" / "blind", ignore_errors=True)  # what the other tests have judged would be judged here too
    for against, counts in (
        ({"run": "lighter", "iteration": 0}, (20, 3, 2)),
        ({"run": "a name that is long " * 3, "iteration": 7}, (2, 12, 0)),
    ):
        note_blind(runs / "lighter", 40, against, *counts)
    open_report(page, "lighter")
    try:
        for theme in ("dark", "light"):
            page.evaluate("(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
            for width in (1280, 1920, 390):
                page.set_viewport_size({"width": width, "height": 900})
                page.wait_for_timeout(800)
                page.locator(f"{REPORT} .pt-act").scroll_into_view_if_needed()
                assert not [each for each in page.evaluate(CONTRAST) if each[2] < 4.5], (theme, width)
                assert page.evaluate(NAMELESS) == [] and page.evaluate(OUTSIDE) == []
                keep_screenshot(page, f"report_{theme}_{width}", tmp_path)
                page.locator(f"{REPORT} .pt-act").click()
                page.locator(DIALOG).wait_for()
                page.wait_for_function(DRAWN, arg=DIALOG)
                keep_screenshot(page, f"blind_{theme}_{width}", tmp_path)
                page.locator(f"{DIALOG} .pt-button", has_text="Later").click()
        page.set_viewport_size({"width": 1280, "height": 900})
        with in_chinese(page):
            page.locator(DIALOG).wait_for()
            keep_screenshot(page, "blind_chinese", tmp_path)
            assert "盲比" in where(page) and "哪一张更好" in hint(page)
            page.locator(f"{DIALOG} .pt-button", has_text="结束比较").click()
            open_report(page, "lighter")
            said = page.locator(REPORT).inner_text()
            assert (
                "训练结果" in said
                and "更好，并非偶然。" in said
                and "更差，并非偶然。" in said
                and "盲比，第 40 次迭代对比训练前的模型" in said
            )
            keep_screenshot(page, "report_chinese", tmp_path)
        assert faults(page) == []
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
        for question in host.get("/posttrain/ratings").json()["questions"]:
            host.post(f"/posttrain/ratings/{question['id']}/end", {"how": "done"})
