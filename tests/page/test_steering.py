"""Steering from the side bar, curves, runs on their shelf, and what everybody can read: in the real page."""

from __future__ import annotations

import json
import math

from posttrain.tests.page.actions import (
    EXTENSION,
    TOASTS,
    drawing,
    faults,
    in_chinese,
    keep_screenshot,
    open_graph,
    queue,
    small_graph,
    status,
    stop_all,
    training_only,
    wait_iterations,
    wait_status,
    wait_until,
)

SIDE = ".pt-sidebar"


def open_side_bar(page, run: str) -> None:
    if not page.locator(SIDE).count():
        page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
    page.locator(f"{SIDE} .pt-run-button", has_text=run).first.click()


def press(page, words: str) -> None:
    page.locator(f"{SIDE} .pt-act", has_text=words).filter(visible=True).first.click()


def put_run(host, name: str, points: int = 60, **facts) -> None:
    """A run's folder as a training leaves it."""
    folder = host.base / "output/posttrain" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"id": name, "status": "done", "iterations": points, **facts}))
    lines = (
        json.dumps({"iteration": i, "reward_mean": 1 + math.sin(i / 9), "reward_std": 0.2, "kl": 10.0 ** (i / 20), "reward/sharp": i / 60,
                    "reward/blue": 1 - i / 90, "seconds_sampling": 2.0, "seconds_training": 3.0})
        for i in range(1, points + 1)
    )  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_a_training_is_paused_steered_and_ended_from_the_side_bar(page, host, tmp_path):
    folder = host.base / "output/posttrain/steered"
    try:
        open_graph(page, training_only(small_graph("steered", 5000, {"PTLoopEnd": {"samples_every": 0}})))
        queue(page)
        wait_iterations(page, "steered", 2)
        open_side_bar(page, "steered")
        press(page, "Pause")
        wait_status(page, "Paused after iteration", SIDE)
        paused_at = status(page, SIDE)
        page.wait_for_timeout(700)
        assert status(page, SIDE) == paused_at and "Queue again" not in paused_at
        assert json.loads((folder / "config.json").read_text())["status"] == "paused"
        assert not page.locator(".p-dialog, [role=dialog]").count(), "a pause is no error"
        assert page.locator(f"{SIDE} .pt-header .pt-dot").get_attribute("data-status") == "paused"
        keep_screenshot(page, "steered_paused", tmp_path)
        rate = page.locator(f"{SIDE} .pt-steering .pt-field").first
        rate.fill("-1")
        rate.press("Enter")
        page.locator(f"{SIDE} .pt-error-words", has_text="is no learning rate").wait_for()
        rate.fill("0.00007")
        rate.press("Enter")
        press(page, "Checkpoint now")
        press(page, "Sample now")
        press(page, "Go on")
        page.locator(f"{SIDE} .pt-messages", has_text="From here on: Learning rate 7e-5").wait_for(timeout=60_000)
        page.locator(f"{SIDE} .pt-messages", has_text="is kept for good").wait_for(timeout=60_000)
        wait_until(page, lambda: len(list((folder / "samples").glob("iteration_*"))) >= 1)
        press(page, "Stop and export")
        assert wait_status(page, "Finished", SIDE).startswith("Finished: ")
        config = json.loads((folder / "config.json").read_text())
        assert config["stopped"] == "you have ended it" and config["kept"] and config["iteration"] < 5000
        first, *_, newest = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
        assert first["learning_rate"] > 3e-4 and 6e-5 < newest["learning_rate"] <= 7e-5, "with its decay"
        assert {f"seconds_{work}" for work in ("sampling", "decoding", "scoring", "training")} | {"ram_gb"} <= newest.keys()
        assert not page.locator(f"{SIDE} .pt-steering").is_visible()
        keep_screenshot(page, "steered_ended", tmp_path)
        page.reload()
        page.wait_for_function("() => window.app?.graph && app.extensionManager", timeout=60_000)
        open_side_bar(page, "steered")
        page.locator(f"{SIDE} .pt-messages .pt-steer", has_text="Learning rate 7e-5").wait_for()
        assert faults(page) == []
    finally:
        stop_all(host)


def test_curves_are_smoothed_laid_over_each_other_added_and_taken_home(page, host, tmp_path):
    for name in ("curve one", "curve two"):
        put_run(host, name)
    (host.base / "output/posttrain/curve one/history.jsonl").write_text(
        json.dumps({"iteration": 30, "text": "The reward has fallen.", "level": "warning"}) + "\n"
    )
    open_side_bar(page, "curve one")
    page.wait_for_function("() => document.querySelector('.pt-sidebar .pt-reward canvas')")
    reward, metric = f"{SIDE} .pt-reward", f"{SIDE} .pt-metric"
    seen = [drawing(page, reward)]

    def changed(where=reward):
        wait_until(page, lambda: drawing(page, where) not in seen, seconds=20)
        seen.append(drawing(page, where))

    page.locator(f"{SIDE} .pt-smooth").press("End")
    page.locator(f"{SIDE} .pt-tools", has_text="Smoothing ±50").wait_for()
    changed()
    page.locator(f"{SIDE} .pt-run-row", has_text="curve two").locator(".pt-beside").check()
    changed()
    assert page.locator(f"{SIDE} .pt-legend").first.inner_text().split("\n") == ["curve one", "curve two"]
    page.locator(f"{SIDE} .pt-select").select_option("kl")
    changed(metric)
    page.get_by_label("log axis").check()
    changed(metric)
    page.locator(f"{SIDE} .pt-select").select_option("*parts")
    changed(metric)
    assert page.locator(f"{SIDE} .pt-metric-box .pt-legend").inner_text().split("\n") == ["Reward: blue", "Reward: sharp"]
    press(page, "Add a curve")
    page.locator(f"{SIDE} .pt-extra .pt-choice").select_option("*time")
    page.locator(f"{SIDE} .pt-extra .pt-legend", has_text="Seconds of sampling").wait_for()
    box = page.locator(reward).bounding_box()
    page.mouse.move(box["x"] + 50 + (box["width"] - 64) * 29 / 59, box["y"] + 60)
    assert page.locator(f"{SIDE} .pt-happened").inner_text() == "30: The reward has fallen."
    keep_screenshot(page, "curves", tmp_path)
    assert page.locator(reward).get_attribute("aria-label").startswith("Reward ")
    page.locator(f"{SIDE} .pt-summary").click()
    with page.expect_download() as download:
        press(page, "Download CSV")
    assert len(download.value.path().read_text().splitlines()) == 61
    assert faults(page) == []


def test_a_run_goes_back_to_an_earlier_iteration_from_the_side_bar(page, host, tmp_path):
    root = host.base / "output/posttrain"
    open_graph(
        page, training_only(small_graph("and back", 3, {"PTLoopEnd": {"samples_every": 0}, "PTLoopStart": {"save_every": 1}}))
    )
    queue(page)
    open_side_bar(page, "and back")
    wait_status(page, "Finished", SIDE)
    before = (root / "and back/metrics.jsonl").read_text().splitlines()
    page.locator(f"{SIDE} .pt-summary").click()
    page.locator(f"{SIDE} .pt-back .pt-iterations").select_option("1")
    press(page, "Go back to iteration")
    page.locator(TOASTS, has_text="goes on from iteration 1").first.wait_for()
    keep_screenshot(page, "go_back", tmp_path)
    assert len(list(root.glob("and back*"))) == 1, "nothing is done before Run"
    queue(page)
    # the side bar says Finished of the first training for a while; the metrics are cut before the config names the way back
    wait_until(page, lambda: json.loads((root / "and back/config.json").read_text()).get("went_back") == 1)
    wait_until(page, lambda: len((root / "and back/metrics.jsonl").read_text().splitlines()) == 3)
    wait_status(page, "Finished", SIDE)
    (kept,) = (folder for folder in root.glob("and back*") if folder.name != "and back")
    assert (kept / "metrics.jsonl").read_text().splitlines() == before
    page.evaluate("app.graph.clear()")
    press(page, "Go back to iteration")
    page.locator(TOASTS, has_text="No node on the page trains").first.wait_for()
    assert faults(page) == []


def test_what_is_chosen_stays_while_there_is_more_to_choose(page, host):
    put_run(host, "grows", 3)
    kept = host.base / "output/posttrain/grows/checkpoints"
    kept.mkdir()

    def written(*iterations):
        for iteration in iterations:
            (kept / f"state_{iteration:06d}.safetensors").touch()
        page.evaluate("async ([base, run]) => (await import(`${base}/runs.js`)).load(run)", [EXTENSION, "grows"])

    open_side_bar(page, "grows")
    page.locator(f"{SIDE} .pt-summary").click()
    written(1, 2)
    menu = page.locator(f"{SIDE} .pt-back .pt-iterations")
    menu.select_option("1")
    written(3)
    wait_until(page, lambda: menu.locator("option").all_inner_texts() == ["2", "1"])
    assert menu.input_value() == "1"
    assert faults(page) == []


def test_runs_are_searched_pinned_renamed_noted_on_and_thrown_away(page, host):
    for name in ("shelf a", "shelf b", "blue cats", *(f"other {i}" for i in range(4))):
        put_run(host, name, 3)
    root = host.base / "output/posttrain"
    open_side_bar(page, "shelf a")
    page.evaluate("""() => {
        window.prompt = () => window.answer;
        window.confirm = () => true;
        Object.assign(app.extensionManager.dialog ?? {}, { prompt: async () => window.answer, confirm: async () => true });
    }""")
    page.locator(f"{SIDE} .pt-search").fill("shelf")
    names = page.locator(f"{SIDE} .pt-run-button .pt-name")
    wait_until(page, lambda: sorted(names.all_inner_texts()) == ["shelf a", "shelf b"])
    page.locator(f"{SIDE} .pt-summary").click()
    press(page, "Pin")
    page.locator(f"{SIDE} .pt-run-button", has_text="📌 shelf a").wait_for()
    page.evaluate("window.answer = 'with red hats'")
    press(page, "Note")
    page.locator(f"{SIDE} .pt-note", has_text="with red hats").wait_for()
    page.locator(f"{SIDE} .pt-search").fill("red hats")
    page.evaluate("window.answer = 'shelf new'")
    press(page, "Rename")
    page.locator(f"{SIDE} .pt-run-button", has_text="shelf new").wait_for()
    assert (root / "shelf new").is_dir() and not (root / "shelf a").exists()
    press(page, "Delete")
    wait_until(page, lambda: (root / ".trash" / "shelf new" / "metrics.jsonl").is_file())
    wait_until(page, lambda: names.count() == 0)
    assert faults(page) == []


# text and what lies behind it, as the page draws them; colours mixed in CSS come out as color(srgb r g b / a)
CONTRAST = """() => {
    const parsed = (text) => {
        const numbers = (text.match(/[\\d.]+(?:e-?\\d+)?/g) ?? []).map(Number);
        const scale = text.startsWith('color(') ? 255 : 1;
        return { rgb: numbers.slice(0, 3).map((n) => n * scale), alpha: numbers[3] ?? 1 };
    };
    const over = (top, below) => top.rgb.map((n, i) => n * top.alpha + below[i] * (1 - top.alpha));
    const behind = (element) => {
        const layers = [];
        for (let one = element; one; one = one.parentElement) layers.push(parsed(getComputedStyle(one).backgroundColor));
        return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const light = (rgb) => rgb.map((n) => n / 255).map((n) => (n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4))
        .reduce((sum, n, i) => sum + n * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    for (const element of document.querySelectorAll('.pt-sidebar *')) {
        const words = [...element.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
        const box = element.getBoundingClientRect();
        if (!words.length || box.width < 2 || element.closest('select') || element.closest('.u-over, .pt-unseen')) continue;
        const ground = behind(element);
        const colour = over(parsed(getComputedStyle(element).color), ground);
        const [high, low] = [light(colour), light(ground)].sort((a, b) => b - a);
        found.push([element.className, words[0].textContent.trim().slice(0, 30), (high + 0.05) / (low + 0.05)]);
    }
    for (const field of document.querySelectorAll('.pt-sidebar :is(select, .pt-search, .pt-field)')) {
        const ground = behind(field);
        for (const part of field.placeholder ? [null, '::placeholder'] : [null]) {
            const colour = over(parsed(getComputedStyle(field, part).color), ground);
            const [high, low] = [light(colour), light(ground)].sort((a, b) => b - a);
            found.push([field.className, part, (high + 0.05) / (low + 0.05)]);
        }
    }
    return found;
}"""
NAMELESS = """() => [...document.querySelectorAll('.pt-sidebar :is(button, input, select, summary, [role=img], [role=progressbar])')]
    .filter((one) => one.getBoundingClientRect().width && !one.getAttribute('aria-label') && !one.textContent.trim()
        && !one.closest('label')?.textContent.trim() && !one.title).map((one) => one.outerHTML.slice(0, 120))"""
OUTSIDE = """() => {
    const bar = document.querySelector('.pt-sidebar').getBoundingClientRect();
    return [...document.querySelectorAll('.pt-sidebar *')].filter((one) => {
        const box = one.getBoundingClientRect();
        return box.width && !one.closest('.pt-unseen, .pt-chart') && (box.right > bar.right + 1 || box.left < bar.left - 1);
    }).map((one) => `${one.className}: ${one.textContent.slice(0, 40)}`);
}"""


def test_everybody_can_read_it_in_both_themes_on_a_phone_and_by_keyboard(page, host, tmp_path):
    for name in ("beside it", *(f"further {i}" for i in range(5))):
        put_run(host, name)
    put_run(host, "for everyone", status="error")
    (host.base / "output/posttrain/for everyone/history.jsonl").write_text(
        json.dumps({"iteration": 9, "text": "a" * 300, "level": "warning"}) + "\n"
    )
    open_side_bar(page, "for everyone")
    page.locator(f"{SIDE} .pt-summary").click()
    try:
        for theme in ("dark", "light"):
            page.evaluate("(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
            page.wait_for_timeout(800)
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 844})
                page.wait_for_timeout(500)
                found = page.evaluate(CONTRAST)
                assert len(found) > 20 and not [each for each in found if each[2] < 4.5], (theme, width)
                assert page.evaluate(NAMELESS) == [] and page.evaluate(OUTSIDE) == []
                bar = page.locator(SIDE).bounding_box()
                assert bar["width"] >= 240 and bar["x"] + bar["width"] <= width + 1
                # on a phone it scrolls by itself, and nothing of the page lies over it
                for x, y in ((0.5, 0.3), (0.9, 0.9), (0.9, 0.1)) if width == 390 else ():
                    place = [bar["x"] + x * bar["width"], bar["y"] + y * bar["height"]]
                    assert page.evaluate("([x, y]) => !!document.elementFromPoint(x, y)?.closest('.pt-sidebar')", place), (
                        bar,
                        place,
                    )
                keep_screenshot(page, f"everyone_{theme}_{width}", tmp_path)
        page.locator(f"{SIDE} .pt-run-button").first.focus()
        reached, wanted = set(), {"pt-select", "pt-smooth", "pt-act", "pt-summary", "pt-beside"}
        for _ in range(300):  # the list before them holds the runs of all tests so far
            if not wanted <= reached:
                page.keyboard.press("Tab")
                reached |= set(page.evaluate("[...document.activeElement.classList]"))
        assert wanted <= reached
        page.set_viewport_size({"width": 1280, "height": 844})
        with in_chinese(page):
            open_side_bar(page, "for everyone")
            page.locator(f"{SIDE} .pt-summary", has_text="这次训练").click()
            assert "平滑" in page.locator(f"{SIDE} .pt-tools").inner_text() and page.evaluate(OUTSIDE) == []
            keep_screenshot(page, "everyone_chinese", tmp_path)
        assert faults(page) == []
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")


def test_changed_settings_are_asked_about_with_buttons_and_no_error(page, host, tmp_path):
    def start(iterations, seed):
        changes = {"PTLoopStart": {"when_run_exists": "continue"}, "PTSampling": {"seed": seed}}
        open_graph(page, training_only(small_graph("asked about", iterations, changes)))
        queue(page)

    try:
        start(2, 1)
        wait_status(page, "Finished: 2")
        start(4, 2)
        dialog = page.locator("dialog.pt-question")
        dialog.wait_for(timeout=60_000)
        assert "The settings of “asked about” have changed".replace("“", '"').replace("”", '"') in dialog.inner_text()
        assert dialog.bounding_box()["height"] < 400, "as high as its words"
        assert "seed" in dialog.locator("tbody tr").inner_text() and page.locator(".p-dialog").count() == 0
        keep_screenshot(page, "question", tmp_path)
        dialog.get_by_role("button", name="Go on with the new settings").click()
        assert wait_status(page, "Finished: 4") == "Finished: 4 iterations"
        assert dialog.count() == 0 and page.locator(".p-dialog").count() == 0
        assert len(json.loads((host.base / "output/posttrain/asked about/config.json").read_text())["changes"]) == 1
        assert faults(page) == []
    finally:
        stop_all(host)


def test_the_end_is_told_by_sound_title_and_notification_only_where_that_is_chosen(page, host):
    page.context.grant_permissions(["notifications"], origin=host.url)
    page.evaluate("""() => {
        window.told = [];
        window.Notification = class extends Notification { constructor(title, more) { super(title, more); told.push([title, more.body]); } };
        const play = HTMLMediaElement.prototype.play;
        HTMLMediaElement.prototype.play = function () {
            this.addEventListener('loadedmetadata', () => told.push(['sound', this.duration.toFixed(2)]));
            return play.call(this);
        };
        document.hasFocus = () => false;
    }""")

    def ended(status):
        event = {"run": "far away", "status": status, "iteration": 3, "iterations": 3, "text": "It is done.", "node": "1"}
        page.evaluate("(event) => app.api.dispatchCustomEvent('posttrain.end', event)", event)
        page.wait_for_timeout(1500)
        return page.evaluate("window.told"), page.title()

    told, title = ended("done")
    assert told == [] and "far away" not in title
    try:
        for what in ("Sound", "Title", "Notification"):
            page.evaluate("(id) => app.extensionManager.setting.set(id, true)", f"PostTrain.Done.{what}")
        told, title = ended("done")
        assert sorted(told) == [["far away", "It is done."], ["sound", "0.36"]] and title == "● far away"
        assert len(ended("cancelled")[0]) == 2, "who has cancelled it knows"
        page.evaluate("window.dispatchEvent(new Event('focus'))")
        assert "far away" not in page.title() and faults(page) == []
    finally:
        for what in ("Sound", "Title", "Notification"):
            page.evaluate("(id) => app.extensionManager.setting.set(id, false)", f"PostTrain.Done.{what}")
