"""What a user does on the page, and what a user sees there, for the page tests."""
from __future__ import annotations

import copy
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "workflows" / "api"
EXTENSION = "/extensions/ComfyUI-PostTrain"
# the page as it was until 1.54 or so, and as it is since
TOASTS = ".p-toast-message-text, [data-testid=toast]"
DIALOGS = ".p-dialog, [role=dialog]"
ISSUES = "[data-testid=error-overlay]"
CLOSE_BUTTONS = ".p-toast-close-button, .p-dialog-close-button, [data-testid=toast-close]"
SMALL = {"PTLoopStart": {"when_run_exists": "start over", "save_every": 1000},
         "PTSampling": {"steps": 3, "noisy_steps": 2, "prompts_per_iteration": 2, "images_per_prompt": 4, "batch_size": 8},
         "PTLoopEnd": {"samples_every": 2}, "PTCreatePolicy": {"rank": 4},
         "EmptyLatentImage": {"batch_size": 1}, "KSampler": {"steps": 2}}


def source(name: str = "learn_to_follow_prompts_flow_grpo") -> dict:
    return json.loads((SOURCES / f"{name}.json").read_text(encoding="utf-8"))


def small_graph(run: str, iterations: int, changes: dict[str, dict] | None = None, **name: str) -> dict:
    """The shipped workflow, cut down until an iteration takes a fraction of a second. changes: class -> inputs."""
    graph = copy.deepcopy(source(**name))
    wanted = copy.deepcopy(SMALL)
    wanted["PTLoopStart"] |= {"run_name": run, "iterations": iterations}
    for kind, inputs in (changes or {}).items():
        wanted.setdefault(kind, {}).update(inputs)
    for node in graph.values():
        node["inputs"].update(wanted.get(node["class_type"], {}))
    return graph


def training_only(graph: dict) -> dict:
    """Without what comes after Loop End."""
    return {node: content for node, content in graph.items() if int(node) <= 11}


def one_node_graph(run: str, iterations: int) -> dict:
    """The same training with the node Train in the place of the loop."""
    graph = {node: content for node, content in small_graph(run, iterations).items() if int(node) <= 5}
    graph["6"] = {"class_type": "PTTrain", "inputs": {
        "policy": ["3", 0], "prompts": ["2", 0], "vae": ["1", 2], "sampling": ["4", 0], "reward": ["1", 5], "trainer": ["5", 0],
        "advantage_rule": "group mean, global std", "run_name": run, "iterations": iterations,
        "when_run_exists": "start over", "save_every": 1000, "samples_every": 1}}
    return graph


def stop_all(host, seconds: float = 60) -> None:
    """Ends what runs and what waits in the queue."""
    host.cancel()
    host.post("/queue", {"clear": True})
    deadline = time.monotonic() + seconds
    while host.get("/queue").json()["queue_running"] and time.monotonic() < deadline:
        time.sleep(0.2)


def load_anew(page) -> None:
    """The page, once it has brought back what was open."""
    page.reload()
    page.wait_for_function("() => window.app?.graph && app.extensionManager", timeout=60_000)
    page.wait_for_timeout(1500)


@contextmanager
def in_chinese(page):
    """The page, loaded anew in Chinese."""
    page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    try:
        load_anew(page)
        yield
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")


def open_graph(page, graph: dict, name: str = "test") -> None:
    page.evaluate("([graph, name]) => app.loadApiJson(graph, name)", [graph, name])
    page.wait_for_timeout(500)
    page.evaluate("() => { app.graph.arrange(60) }")
    fit(page)


def fit(page) -> None:
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(700)


def queue(page) -> None:
    page.evaluate("() => { app.queuePrompt(0, 1) }")


def status(page, inside: str = ".pt-node") -> str:
    return page.evaluate("(where) => document.querySelector(`${where} .pt-status`)?.textContent ?? ''", inside)


def wait_status(page, start: str, inside: str = ".pt-node", seconds: float = 120) -> str:
    page.wait_for_function("([where, start]) => document.querySelector(`${where} .pt-status`)?.textContent.startsWith(start)",
                           arg=[inside, start], timeout=seconds * 1000)
    return status(page, inside)


def iterations_known(page, run: str) -> list[int]:
    """The iterations that the page's picture of the run holds."""
    return page.evaluate("""async ([base, run]) => {
        const { getRun } = await import(`${base}/runs.js`);
        return (getRun(run)?.points ?? []).map((point) => point.iteration);
    }""", [EXTENSION, run])


def wait_until(page, condition, seconds: float = 120) -> None:
    """Asks again and again: the page's own waiting takes an async function's promise for a yes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        page.wait_for_timeout(100)


def wait_iterations(page, run: str, number: int, seconds: float = 120) -> None:
    wait_until(page, lambda: len(iterations_known(page, run)) >= number, seconds)


def drawing(page, where: str = ".pt-node .pt-reward") -> str:
    """The pixels of a chart."""
    return page.evaluate("(where) => document.querySelector(`${where} canvas`)?.toDataURL() ?? ''", where)


def faults(page) -> list[str]:
    """Errors that come from the pack's own scripts; ComfyUI's page has some of its own."""
    return [fault for fault in page.faults if "PostTrain" in fault or "posttrain" in fault]


@contextmanager
def nodes_2(page):
    """The nodes drawn as elements of the page, as the newer pages can, instead of on the canvas."""
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    try:
        yield
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")


def keep_screenshot(page, name: str, fallback: Path) -> Path:
    """Saved where PAGE_SCREENSHOTS says, else under the test's temporary folder."""
    folder = Path(os.environ.get("PAGE_SCREENSHOTS") or fallback)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
    return folder / f"{name}.png"
