"""The live view in the real page: it moves while a training runs, and nothing that goes wrong in between is lost."""
from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from posttrain.tests.page.actions import (
    EXTENSION,
    TOASTS,
    drawing,
    faults,
    fit,
    in_chinese,
    iterations_known,
    keep_screenshot,
    nodes_2,
    one_node_graph,
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

# a toast is gone again within seconds, so its words are kept
KEEP_TOASTS = """() => {
    window.toasts = [];
    new MutationObserver(() => document.querySelectorAll('TOASTS')
        .forEach((toast) => window.toasts.push(toast.innerText))).observe(document.body, {childList: true, subtree: true});
}""".replace("TOASTS", TOASTS)

MESSAGES = """async ([base, run]) => {
    const { getRun } = await import(`${base}/runs.js`);
    return getRun(run).messages.filter((message) => message.alarm === 'pictures');
}"""


@pytest.fixture
def train(page, host):
    """train(run, iterations, changes): opens the cut-down workflow and queues it. Ends what still runs afterwards."""
    def start(run: str, iterations: int, changes=None) -> None:
        open_graph(page, training_only(small_graph(run, iterations, changes)))
        queue(page)
    yield start
    stop_all(host)


def test_curve_moves_and_finishes(page, train, tmp_path):
    train("moves", 12)
    wait_iterations(page, "moves", 3)
    early = drawing(page)
    wait_iterations(page, "moves", 8)
    late = drawing(page)
    assert early and late and early != late
    keep_screenshot(page, "running", tmp_path)
    assert wait_status(page, "Finished") == "Finished: 12 iterations"
    assert iterations_known(page, "moves") == list(range(1, 13))
    image = page.locator(".pt-node .pt-image")
    page.wait_for_function("() => document.querySelector('.pt-node .pt-image').naturalWidth > 0")
    assert "iteration_000012" in image.get_attribute("src")
    keep_screenshot(page, "finished", tmp_path)
    assert faults(page) == []


def test_train_shows_it_too(page):
    open_graph(page, one_node_graph("one node", 4))
    queue(page)
    assert wait_status(page, "Finished") == "Finished: 4 iterations"
    assert iterations_known(page, "one node") == [1, 2, 3, 4]
    assert len(drawing(page)) > 1000


def test_metric_can_be_chosen(page, train):
    train("chosen", 4)
    wait_status(page, "Finished")
    select = page.locator(".pt-node .pt-select")
    before = drawing(page, ".pt-node .pt-metric")
    assert select.input_value() == "kl"
    select.select_option("grad_norm")
    assert drawing(page, ".pt-node .pt-metric") != before
    assert "Gradient norm" in select.inner_text()
    page.reload()
    page.wait_for_function("() => document.querySelector('.pt-node .pt-select')?.value === 'grad_norm'", timeout=60_000)


def test_a_trainer_without_a_reward_shows_its_accuracy(page, host):
    folder = host.base / "output/posttrain/pairs only"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"id": "pairs", "status": "done", "iterations": 20}))
    lines = (json.dumps({"iteration": i, "accuracy": 0.5 + i / 100, "loss": 0.69, "kl": 1e-5 * i}) for i in range(1, 21))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
    page.locator(".pt-run-button", has_text="pairs only").click()
    page.wait_for_function("() => document.querySelector('.pt-sidebar .pt-now')?.textContent === 'Accuracy 0.68'")
    assert page.locator(".pt-sidebar .pt-start").inner_text() == "0.53 at the start"
    offered = page.locator(".pt-sidebar .pt-select").inner_text()
    assert "KL" in offered and "Loss" in offered and "Accuracy" not in offered
    assert len(drawing(page, ".pt-sidebar .pt-reward")) > 1000


def test_cancel_is_shown_and_what_was_learned_is_kept(page, train, host):
    train("cancelled", 5000)
    wait_iterations(page, "cancelled", 3)
    page.evaluate(KEEP_TOASTS)
    page.evaluate("app.extensionManager.command.execute('Comfy.Interrupt')")
    assert "of 5000" in wait_status(page, "Cancelled", seconds=60)
    reached = host.get("/posttrain/runs/cancelled").json()
    assert reached["status"] == "cancelled" and reached["iteration"] >= 3
    page.wait_for_function("() => window.toasts.some((text) => text.includes('was cancelled after iteration'))")
    assert list((host.base / "output/posttrain/cancelled/checkpoints").glob("state_*.safetensors"))


def test_a_reload_in_the_middle_loses_nothing(page, train, host):
    train("reloaded", 5000)  # at it until it is cancelled, however long the page takes to come back
    wait_iterations(page, "reloaded", 4)
    page.reload()
    wait_status(page, "Training")
    page.evaluate("app.extensionManager.command.execute('Comfy.Interrupt')")
    wait_status(page, "Cancelled", seconds=60)
    reached = host.get("/posttrain/runs/reloaded").json()["iteration"]
    assert reached >= 4
    wait_until(page, lambda: iterations_known(page, "reloaded") == list(range(1, reached + 1)), seconds=30)


def test_a_dropped_connection_loses_nothing(page, train):
    train("dropped", 40)
    wait_iterations(page, "dropped", 3)
    page.evaluate("app.api.socket.close()")
    assert wait_status(page, "Finished") == "Finished: 40 iterations"
    wait_iterations(page, "dropped", 40, seconds=30)
    assert iterations_known(page, "dropped") == list(range(1, 41))


def test_lost_events_are_read_from_the_folder(page, train):
    """Whether the folder was read long ago or just before they were lost, and also where no later event tells of it."""
    train("gap", 8)
    wait_status(page, "Finished")
    iteration = ("iteration", {"iteration": 8, "metrics": {"reward_mean": 0.5}, "seconds": 1})
    end = ("end", {"iteration": 8, "status": "done", "text": "Finished: 8 iterations"})
    for read_ms_ago, events in ((1e9, [iteration]), (0, [iteration]), (0, [iteration, end]), (0, [end])):
        # in one go, since the page reads the folder of its own accord as well
        left = page.evaluate("""async ([base, ago, events]) => {
            const { getRun } = await import(`${base}/runs.js`), run = getRun('gap');
            run.points.splice(3);
            run.read = performance.now() - ago;
            const left = run.points.map((point) => point.iteration);
            for (const [kind, event] of events) {
                app.api.dispatchCustomEvent(`posttrain.${kind}`, {run: 'gap', node: '11', iterations: 8, ...event});
            }
            return left;
        }""", [EXTENSION, read_ms_ago, events])
        assert left == [1, 2, 3]
        wait_until(page, lambda: iterations_known(page, "gap") == list(range(1, 9)), seconds=30)


def test_runs_are_kept_apart(page, train):
    train("apart one", 3)
    wait_status(page, "Finished")
    train("apart two", 5)
    assert wait_status(page, "Finished: 5") == "Finished: 5 iterations"
    assert (len(iterations_known(page, "apart one")), len(iterations_known(page, "apart two"))) == (3, 5)


def test_another_name_shows_another_run(page, train):
    train("named", 3)
    wait_status(page, "Finished")
    page.evaluate("""() => {
        app.graph._nodes.find((n) => n.type === 'PTLoopStart').widgets.find((w) => w.name === 'run_name').value = 'unheard of';
    }""")
    page.wait_for_function("() => document.querySelector('.pt-node .pt-empty').textContent.includes('unheard of')")
    assert page.locator(".pt-node .pt-run").is_hidden()


def test_a_failing_node_is_marked(page, train, tmp_path):
    train("fails", 5, {"PTSampling": {"transition": "deterministic"}})
    wait_status(page, "Stopped by an error")
    marked = page.evaluate("app.graph._nodes.filter((node) => node.has_errors).map((node) => node.type)")
    assert marked == ["PTTrainStep"]
    keep_screenshot(page, "failed", tmp_path)
    page.keyboard.press("Escape")
    train("fails not", 2)
    wait_status(page, "Finished")
    assert page.evaluate("app.graph._nodes.filter((node) => node.has_errors).length") == 0


def test_why_one_failed_and_what_another_came_to_are_said_in_chinese(page, train, tmp_path):
    with in_chinese(page):
        page.evaluate(KEEP_TOASTS)
        train("fails in chinese", 5, {"PTSampling": {"transition": "deterministic"}})
        wait_status(page, "因错误停在")
        problem = page.locator(".pt-node .pt-error").inner_text()
        assert "出错：rollout：没有随机步，因此没有可用来训练的似然；请在采样设置中把 noise level 设为大于 0" in problem
        assert "例如 DiffusionNFT [" in problem, "to its end"
        page.keyboard.press("Escape")
        page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
        page.locator(".pt-run-button", has_text="fails in chinese").click()
        page.locator(".pt-sidebar .pt-problem, .pt-sidebar .pt-error", has_text="没有随机步").first.wait_for()
        keep_screenshot(page, "failed_chinese", tmp_path)
        page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
        train("ends in chinese", 2)
        wait_status(page, "已完成：2 次迭代")
        wait_until(page, lambda: page.evaluate("window.toasts.some((text) => text.includes('从第 0 次训练到第 2 次迭代'))"))


def test_side_bar_lists_runs_and_slides_through_samples(page, train, tmp_path):
    train("sliding", 6)
    wait_status(page, "Finished")
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
    page.locator(".pt-run-button", has_text="sliding").click()
    assert status(page, ".pt-sidebar") == "Finished: 6 iterations"
    image, slider = page.locator(".pt-sidebar .pt-image"), page.locator(".pt-sidebar .pt-range")
    assert "iteration_000006" in image.get_attribute("src")
    slider.focus()
    page.keyboard.press("Home")
    assert "iteration_000001" in image.get_attribute("src")
    page.wait_for_function("() => document.querySelector('.pt-sidebar .pt-image').complete")
    keep_screenshot(page, "side_bar", tmp_path)
    page.locator(".pt-sidebar .pt-button").click()
    assert "iteration_000006" in image.get_attribute("src")
    assert faults(page) == []


def held_out_graph(run: str, iterations: int) -> dict:
    """The training, measured on the demo world's held-out prompts every second iteration."""
    graph = training_only(small_graph(run, iterations))
    graph |= {"20": {"class_type": "PTEncodePrompts", "inputs": {"prompts": ["1", 4], "clip": ["1", 1], "negative": ""}},
              "21": {"class_type": "PTEvaluateWhileTraining", "inputs": {
                  "prompts": ["20", 0], "vae": ["1", 2], "reward": ["1", 5], "sampling": ["4", 0], "every": 2,
                  "hand_out": "the last"}}}
    graph["6"]["inputs"]["evaluation"] = ["21", 0]
    return graph


def test_held_out_prompts_are_drawn_beside_and_pressed_show_the_model_before(page, train, tmp_path):
    open_graph(page, held_out_graph("held out", 6))
    queue(page)
    wait_status(page, "Finished")
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
    page.locator(".pt-run-button", has_text="held out").click()
    assert "violet: held-out prompts" in page.locator(".pt-sidebar .pt-reward").get_attribute("title")
    assert page.locator(".pt-sidebar .pt-run .pt-select").input_value() == "held_out_reward"
    page.locator(".pt-sidebar .pt-samples .pt-kind").select_option("held_out")
    image, slider = page.locator(".pt-sidebar .pt-image"), page.locator(".pt-sidebar .pt-range")
    assert "held_out_000006" in image.get_attribute("src")
    slider.focus()
    page.keyboard.press("Home")
    assert "held_out_000002" in image.get_attribute("src")
    image.hover()
    page.mouse.down()
    assert "held_out_000000" in image.get_attribute("src")
    assert page.locator(".pt-sidebar .pt-caption").inner_text() == "Held-out prompts, your model before training"
    page.mouse.up()
    assert "held_out_000002" in image.get_attribute("src")
    page.wait_for_function("() => document.querySelector('.pt-sidebar .pt-image').complete")
    keep_screenshot(page, "held_out", tmp_path)
    page.locator(".pt-sidebar .pt-samples .pt-kind").select_option("samples")
    assert "iteration_000006" in image.get_attribute("src") and faults(page) == []


def test_vue_nodes_show_it_too(page, train, tmp_path):
    with nodes_2(page):
        train("vue", 4)
        wait_status(page, "Finished")
        fit(page)
        page.wait_for_timeout(1000)
        box = page.locator("[data-node-id] .pt-node .pt-reward canvas").bounding_box()
        assert box["width"] > 80 and box["height"] > 25
        field = page.locator('[data-node-id] :is(input[aria-label="clip_range"], [aria-label="clip_range"] input)')
        assert float(field.input_value()) == 0.0002
        keep_screenshot(page, "vue_nodes", tmp_path)


def test_chinese(page, train, tmp_path):
    with in_chinese(page):
        train("chinese", 3)
        assert wait_status(page, "已完成") == "已完成：3 次迭代"
        names = page.evaluate("app.graph._nodes.map((node) => node.title)")
        assert "循环结束" in names
        keep_screenshot(page, "chinese", tmp_path)


def test_a_gamed_reward_is_told_on_the_node_and_in_the_side_bar(page, train, tmp_path):
    """A training for colour alone: soon the pictures are nothing but colourful, and the page says so in words."""
    graph = small_graph("gamed", 24, {"PTDRaFT": {"learning_rate": 2e-3}}, name="follow_a_rewards_gradient_draft")
    open_graph(page, training_only(graph))
    page.evaluate(KEEP_TOASTS)
    queue(page)
    page.locator(".pt-node .pt-warning", has_text="If you did not ask for that").wait_for(timeout=120_000)
    wait_status(page, "Finished")
    toasts = page.evaluate("[...new Set(window.toasts)].filter((text) => text.includes('If you did not ask for that'))")
    assert len(toasts) == 1 and len(page.evaluate(MESSAGES, [EXTENSION, "gamed"])) > 1, "all are kept, one pops up"
    keep_screenshot(page, "alarm", tmp_path)
    with in_chinese(page):
        page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
        page.locator(".pt-run-button", has_text="gamed").click()
        page.locator(".pt-sidebar .pt-messages .pt-warning", has_text="画面色彩明显变浓（画面：色彩丰富度：").wait_for()
        keep_screenshot(page, "alarm_chinese", tmp_path)
    assert faults(page) == []


def test_a_flood_of_events_costs_little(page, train):
    """2,000 events in bursts of five: all are kept, and a burst is drawn once."""
    train("flood", 2)
    wait_status(page, "Finished")
    drawn = page.evaluate("""async () => {
        let drawn = 0;
        const observer = new MutationObserver((records) => { drawn += records.length });
        observer.observe(document.querySelector('.pt-node .pt-status'), { childList: true, characterData: true, subtree: true });
        for (let i = 3; i <= 2000; i++) {
            app.api.dispatchCustomEvent('posttrain.iteration', { run: 'flood', node: '11', iteration: i, iterations: 2000,
                metrics: { reward_mean: Math.sin(i / 50), reward_std: 0.2, kl: i * 1e-5 }, seconds: 0.002, seconds_left: 1 });
            if (i % 5 === 0) await new Promise((done) => setTimeout(done, 10));
        }
        await new Promise((done) => setTimeout(done, 500));
        return drawn;
    }""")
    assert iterations_known(page, "flood") == list(range(1, 2001))
    assert 2 <= drawn <= 2000 / 5 + 2


@pytest.mark.parametrize("route, status", [
    ("..%2F..", 400), ("..%5C..", 400), ("%2e%2e", 400), ("nobody%20knows", 404), ("asked?since=x", 400),
    ("asked/samples/..%2Fconfig.json", 400), ("asked/samples/config.json", 400), ("asked/samples/iteration_000099.webp", 404)])
def test_routes_stay_in_the_runs_folder(host, route, status):
    (host.base / "output/posttrain/asked").mkdir(parents=True, exist_ok=True)
    (host.base / "output/posttrain/asked/config.json").write_text("{}")
    answer = host.get(f"/posttrain/runs/{route}")
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_run_of_100000_iterations_does_not_hold_up_the_server(host, page):
    folder = host.base / "output/posttrain/long run"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"id": "long", "status": "done", "iterations": 100_000}))
    lines = (json.dumps({"iteration": i, "reward_mean": math.sin(i / 5000), "reward_std": 0.1, "kl": i * 1e-6,
                         "grad_norm": 0.02, "loss": 1e-4, "seconds": 0.1}) for i in range(1, 100_001))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with ThreadPoolExecutor(1) as pool:
        reading, answered = pool.submit(host.get, "/posttrain/runs/long%20run"), 0
        while not reading.done():
            host.get("/posttrain/runs/asked/samples/none")
            answered += 1
    run = reading.result().json()
    assert run["iteration"] == 100_000 and run["thinned"] > 1 and len(run["points"]) <= 2000
    assert answered > 2, "others are answered while the run is read"
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('posttrain')")
    page.locator(".pt-run-button", has_text="long run").click()
    wait_iterations(page, "long run", 1000, seconds=60)
    page.locator(".pt-sidebar .pt-run .pt-hint", has_text="Each stretch of").wait_for()  # drawn a frame after the points


def test_help_is_opened_from_the_node(page):
    open_graph(page, training_only(small_graph("help", 1)))
    page.evaluate("""() => {
        const node = app.graph._nodes.find((one) => one.type === 'PTFlowGRPO');
        app.canvas.ds.scale = 0.8;
        app.canvas.ds.offset[0] = 600 - node.pos[0];
        app.canvas.ds.offset[1] = 350 - node.pos[1];
        app.canvas.selectNode(node);
        app.canvas.setDirty(true, true);
    }""")
    page.locator("[data-testid=info-button], button:has(i[class*='info'])").first.click()
    page.get_by_role("heading", name="When to use it").wait_for(timeout=20_000)
    # pages from about 1.40 on have both panels at once
    panels = page.locator(".side-bar-panel, [data-testid=properties-panel]")
    assert any("arXiv:2505.05470" in text for text in panels.all_inner_texts())
