"""The page at /posttrain in a real browser: a phone that watches, steers and rates, without ComfyUI's own page."""

from __future__ import annotations

import json
import time

import pytest
from posttrain.tests.page.actions import EXTENSION, keep_screenshot, small_graph, stop_all, training_only, wait_status
from posttrain.tests.page.test_rating import DIALOG, hint, human, votes
from posttrain.tests.page.test_steering import CONTRAST, NAMELESS, OUTSIDE, press, put_run
from posttrain.tools import sentences
from posttrain.tools.graphs import swap_feedback, swap_reward, swap_trainer
from posttrain.tools.training import with_defaults

HAN = sentences.HAN
SIDE, LOCALE = ".pt-sidebar", "/settings/Comfy.Locale"
# sentences that only one language has, or whose gaps differ; what is only in Chinese comes from the server in English
UNLIKE = """async (base) => {
    const [{ EN }, { ZH }] = [await import(`${base}/english.js`), await import(`${base}/chinese.js`)];
    const gaps = (text) => (String(text).match(/\\{\\w+\\}/g) ?? []).sort().join();
    const unlike = (en, zh, path) => Object.keys({ ...en, ...zh }).flatMap((key) => {
        if (typeof en[key] === 'object') return unlike(en[key], zh[key] ?? {}, `${path}${key}.`);
        return gaps(en[key]) === gaps(zh[key]) && en[key] && zh[key] ? [] : [path + key];
    });
    return unlike(EN, ZH, '');
}"""
FROM_THE_SERVER = {"alarms", "said", "steps", "reasons", "blocks", "goals", "heads", "looks", "menus"}


@pytest.fixture
def alone(chromium, host):
    """alone(width, theme, language): the page, on a browser of its own, where nobody has chosen a language in ComfyUI."""
    contexts, chosen = [], host.get(LOCALE).json()
    host.post(LOCALE, "")

    def opened(width: int = 390, theme: str = "dark", language: str = "en-GB"):
        context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=theme, locale=language,
                                       has_touch=width < 500)  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(f"{host.url}/posttrain")
        page.locator(SIDE).wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    host.post(LOCALE, chosen or "en")
    stop_all(host)


def test_the_language_is_the_one_chosen_in_comfyui(alone, host):
    host.post(LOCALE, "zh")
    assert alone(language="en-GB").evaluate("document.documentElement.lang") == "zh"
    host.post(LOCALE, "")
    assert alone(language="de-DE").evaluate("document.documentElement.lang") == "de-DE"


def start(host, run: str, iterations: int, by_hand: bool = False) -> None:
    """Queued as by a script: no page of ComfyUI is open."""
    graph = training_only(small_graph(run, iterations, {"PTSampling": {"images_per_prompt": 2}} if by_hand else None))
    graph["file"] = {"class_type": "PTRewardJPEG", "inputs": {}}
    swap_reward(graph, {"class_type": "PTRewardSum", "inputs": {"reward_1": ["1", 5], "reward_2": ["file", 0]}})
    if by_hand:
        swap_reward(graph, human(run, "best and worst"))
        swap_trainer(graph, {"class_type": "PTDiffusionDPO", "inputs": {}})
        swap_feedback(graph, {"class_type": "PTPreferences", "inputs": {}})
    host.post("/prompt", {"prompt": with_defaults(graph, host.object_info())}).raise_for_status()


def test_a_phone_watches_and_steers_a_training(alone, host, tmp_path):
    page = alone()
    start(host, "second screen", 5000)
    page.locator(f"{SIDE} .pt-run-button", has_text="second screen").wait_for(timeout=60_000)
    page.locator(f"{SIDE} .pt-run-button", has_text="second screen").tap()
    wait_status(page, "Training: iteration", SIDE)
    page.wait_for_function("() => document.querySelector('.pt-sidebar .pt-reward canvas')")
    page.wait_for_function("() => document.querySelector('.pt-sidebar .pt-samples img')?.naturalWidth > 0", timeout=60_000)
    before = page.locator(f"{SIDE} .pt-header").inner_text()
    page.wait_for_function("(before) => document.querySelector('.pt-sidebar .pt-header').innerText !== before", arg=before)
    press(page, "Pause")
    wait_status(page, "Paused after iteration", SIDE)
    keep_screenshot(page, "own_page_paused", tmp_path)
    weights = page.locator(f"{SIDE} .pt-fields label", has_text="Weight: ")
    assert weights.count() == 2
    weights.last.locator("input").fill("0.25")
    weights.last.locator("input").press("Enter")
    press(page, "Go on")
    page.locator(f"{SIDE} .pt-messages", has_text="From here on: Weight: JPEG").wait_for(timeout=60_000)
    press(page, "Pause")
    wait_status(page, "Paused after iteration", SIDE)
    assert weights.last.locator("input").input_value() == "0.25"
    page.context.set_offline(True)
    press(page, "Stop and export")
    page.locator(f"{SIDE} .pt-error-words:not(:empty)").wait_for()
    page.context.set_offline(False)
    press(page, "Stop and export")
    assert wait_status(page, "Finished", SIDE).startswith("Finished: ")
    assert page.evaluate(OUTSIDE) == [] and page.faults == []
    assert page.locator(f"{SIDE} .pt-act", has_text="Open its folder").count() == 1
    assert not page.locator(f"{SIDE} .pt-back").count() and not page.get_by_text("Open its workflow").count(), (
        "no graph is here"
    )


def test_both_languages_have_every_sentence_with_the_same_gaps(alone):
    unlike = alone().evaluate(UNLIKE, EXTENSION)
    assert set(unlike) == FROM_THE_SERVER


SAID = """async (base) => {
    const { messageWords } = await import(`${base}/words.js`);
    const because = { text: '', alarm: 'fall', values: { best: 0.5, until: 7, now: 0.25 } };
    return [
        messageWords({ text: 'x', values: { what: 'ends', why: 'an alarm is raised', iteration: 9, iterations_in_all: 40, because } }),
        messageWords({ text: 'x', values: { what: 'ends', why: 'KL is above', iteration: 9, iterations_in_all: 40, value: 0.1234, limit: 0.1 } }),
        messageWords({ text: 'x', values: { what: 'memory is full', steps: ['batch_size', 'pictures'], now: 8, half: 4 } }),
        messageWords({ text: 'x', values: { what: 'no number', rule: 'KL is above', number: 'kl' } }),
    ];
}"""


FILLED = """async ([base, texts]) => {
    const { serverWords } = await import(`${base}/words.js`);
    const unlike = [["<", ">"], ["a file ", ".png"], ["", " 000"]].flatMap(([before, after]) => {
        const filled = (text) => text.replace(/\\{(\\d+)\\}/g, (all, n) => before + n + after);
        return Object.keys(texts).filter((words) => serverWords(filled(words)) !== filled(texts[words]));
    });
    const said = "Run 'cats': trained to iteration 3 (from 0). It has learned nothing: in none of 3 iterations were the weights " +
        "updated. No pair came out of the scores. Use more images per prompt, or a reward that tells them apart. Saved in x.\\n" +
        "Best on held-out prompts: 0.9, in iteration 3.";
    return [unlike, serverWords(said), serverWords("nothing that it knows")];
}"""
NESTED = """async ([base, lines]) => (await import(`${base}/words.js`)).serverWords(lines.join("\\n")).split("\\n")"""
# what several parts of the server say together -> how it reads
TOGETHER = {
    "lora: cat.safetensors: only 3 of 12 layers can be trained in this model (9 not in this model: a, b); choose a LoRA that was "
    "made for this model": "lora：cat.safetensors：此模型中只能训练 12 层中的 3 层（9 个不在此模型中：a, b）；请选择为此模型制作的 LoRA",
    "pairs.jsonl: none of its rows can be used": "pairs.jsonl：没有一行可用",
    "2 rows were left out:": "略去了 2 行：",
    "row 1: it has no caption": "row 1：没有说明文字",
    "rank: 'x' is not possible; it must be a whole number from 1 to 1024": "rank：'x' 不可行；必须是 1 到 1024 之间的整数",
    "addresses: no ComfyUI is there. http://a: it does not answer (URLError: timed out); http://b: there is a server, but no "
    "ComfyUI. Start one with --listen, or correct the address": "addresses：那里没有 ComfyUI。http://a：它没有回答（URLError：timed out）；"
    "http://b：那里有服务器，但不是 ComfyUI。请用 --listen 启动一个，或改正地址",
    "sampling: A rollout holds 5.0 GB in memory: their means 1.0 GB, finished images 9.0 MB. 4.0 GB of images lie on the disk. "
    "Only 2.0 GB are free. Take fewer prompts per iteration or images per prompt, fewer noisy steps, or a smaller width and "
    "height": "sampling：一次采样要在内存中保存 5.0 GB：它们的均值 1.0 GB，完成的图像 9.0 MB。另有 4.0 GB 图像放在磁盘上。"
    "只有 2.0 GB 可用。请减少每次迭代的提示词数或每条提示词的图像数、减少随机步，或减小宽度和高度",
    "Run 'x' ended early, after iteration 3 of 9: it has made 64 images. Saved in y.":
        "训练“x”在第 3 / 9 次迭代后提前结束：已生成 64 张图像。保存在 y。",
}  # fmt: skip


def test_a_summary_and_every_error_are_said_in_it(alone):
    texts = {words: text for room in sentences.chinese().values() for words, text in room.items()}
    page = alone(language="zh-CN")
    unlike, summary, unknown = page.evaluate(FILLED, [EXTENSION, texts])
    assert unlike == [] and unknown == "nothing that it knows"
    assert summary == ("训练“cats”：从第 0 次训练到第 3 次迭代。什么也没有学到：3 次迭代中权重一次也没有更新。得分中没有得出任何图像对。"
                       "请增加每条提示词的图像数，或换一个能区分它们的奖励。保存在 x。\n留出提示词上的最好结果：0.9，第 3 次迭代。")  # fmt: skip
    assert page.evaluate(NESTED, [EXTENSION, list(TOGETHER)]) == list(TOGETHER.values())
    english, *_ = alone().evaluate(FILLED, [EXTENSION, texts])
    assert len(english) > 3 * 600, "elsewhere they stay as the server says them"


def test_no_text_keeps_the_page_from_answering(alone):
    """Each word between the gaps is looked for once, and sentences within sentences a few deep: to try every way takes for ever."""
    texts = [
        ": " * 1900,
        "a, b; c: d (e) " * 250,
        "run: '" * 600,
        "it failed: " * 350 + "; x, y",
        "it is a tie; it failed: " * 150,
    ]
    page = alone(language="zh-CN")
    started = time.monotonic()
    assert page.evaluate(NESTED, [EXTENSION, [text * 20 for text in texts]]) == [text * 20 for text in texts]
    assert page.evaluate(NESTED, [EXTENSION, texts])[3].startswith("它失败了") and time.monotonic() - started < 20


def test_the_sentences_are_fetched_once_and_only_where_they_are_read(chromium, host, alone):
    for language, times in (("en-GB", 0), ("zh-CN", 1)):
        page, asked = alone(language=language), []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        page.locator(SIDE).wait_for()
        page.evaluate(NESTED, [EXTENSION, ["its prompts are none"]])
        files = [url for url in asked if "/chinese_errors/" in url]
        assert len(files) == len(set(files)) == times * len(sentences.ROOMS)


def test_a_routes_error_is_chinese_where_the_page_is(alone):
    said = alone(language="zh-CN").evaluate(
        "async (base) => (await import(`${base}/api.js`)).fetchRun('nobody').catch((error) => error.message)", EXTENSION
    )
    assert said == "没有名为“nobody”的训练"


def test_why_it_ends_and_what_full_memory_asks_for_are_said_in_chinese(alone):
    alarm, rule, memory, number = alone(language="zh-CN").evaluate(SAID, EXTENSION)
    assert alarm.startswith("训练在第 9 / 40 次迭代后结束：发出了警报：奖励从 0.5（第 7 次迭代前后）降到了 0.25。")
    assert rule == "训练在第 9 / 40 次迭代后结束：与原模型的 KL 为 0.123，超过了允许的 0.1。"
    assert "1) 把采样设置中的 batch_size 从 8 降到 4" in memory and "2) 训练更小的图像" in memory
    assert "“KL is above”" in number and "“KL：与原模型的距离”" in number
    assert alone().evaluate(SAID, EXTENSION) == ["x"] * 4, "the server's own words"


def test_a_phone_rates_beside_another_browser_that_rates_by_keys(alone, host, tmp_path):
    phone, other = alone(), alone(1280, "light", "zh-CN")
    start(host, "rated elsewhere", 1, by_hand=True)
    for page in (phone, other):
        page.locator(DIALOG).wait_for(timeout=60_000)
    assert hint(other) == "哪一张最好？" and hint(phone) == "Which is the best?"
    keep_screenshot(phone, "own_page_rating", tmp_path)
    keep_screenshot(other, "own_page_rating_chinese", tmp_path)
    tops = [card.bounding_box()["y"] for card in phone.locator(f"{DIALOG} .pt-rate-card:visible").all()]
    assert len(set(tops)) == 2, "one above the other"
    phone.locator(f"{DIALOG} .pt-rate-card").first.tap()
    other.keyboard.press("2")
    for page in (phone, other):
        page.locator(DIALOG).wait_for(state="hidden", timeout=30_000)
    wait_status(other, "已完成", SIDE)
    assert sorted(votes(host, "rated elsewhere")) == [-1, -1, 1, 1] and phone.faults == other.faults == []


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_everybody_can_read_the_page_of_its_own(alone, host, tmp_path, theme):
    for name in ("one", "of its own"):
        put_run(host, name)
    longest = sorted(sentences.sentences(), key=len)[-9:]
    told = [json.dumps({"iteration": i, "text": text, "level": "warning"}) for i, text in enumerate(longest, 1)]
    (host.base / "output/posttrain/of its own/history.jsonl").write_text("\n".join(told) + "\n")
    for width in (390, 1280):
        page = alone(width, theme, "zh-CN" if theme == "light" else "en-GB")
        page.locator(f"{SIDE} .pt-run-button", has_text="of its own").first.click()
        page.wait_for_function("() => document.querySelector('.pt-sidebar .pt-reward canvas')")
        page.locator(f"{SIDE} .pt-summary").click()
        messages = page.locator(f"{SIDE} .pt-messages .pt-warning").all_inner_texts()
        assert len(messages) == 9 and all(bool(HAN.search(text)) == (theme == "light") for text in messages)
        found = page.evaluate(CONTRAST)
        assert len(found) > 20 and not [each for each in found if each[2] < 4.5], (theme, width)
        assert page.evaluate(NAMELESS) == [] and page.evaluate(OUTSIDE) == [] and page.faults == []
        keep_screenshot(page, f"own_page_{theme}_{width}", tmp_path)
