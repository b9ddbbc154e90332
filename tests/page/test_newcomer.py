"""A newcomer's path: Templates, one for a model of one's own, a checkpoint chosen, Run, a curve seen. Pages that know apps show
the template as one. No number is typed and no link drawn."""

from __future__ import annotations

import pytest
from posttrain.tests.page.actions import faults, fit, keep_screenshot, stop_all, wait_until
from posttrain.tests.page.app_mode import (
    CURVE_SEEN,
    KNOWS_APPS,
    SET,
    SMALL,
    choose_model,
    is_app,
    open_from_templates,
    pictures,
    press_run,
)
from posttrain.tests.page.small_files import write_checkpoint, write_pickscore

MODEL = "zz_my_model.safetensors"
RUN = "my_sd35"


@pytest.fixture(scope="module")
def files(host):
    """What the template's note asks for, small."""
    write_pickscore(host.base)
    file = write_checkpoint(host.base / "models" / "checkpoints" / MODEL)
    yield
    file.unlink()


def running(host) -> bool:
    return bool(host.get("/queue").json()["queue_running"])


def see_a_graph(page, host, tmp_path) -> None:
    """The live curve on the node that trains."""
    fit(page)
    drawn = "document.querySelector('.pt-node .pt-reward canvas')?.width ?? 0"
    wait_until(page, lambda: page.evaluate(drawn) > 0)
    keep_screenshot(page, "newcomer_running", tmp_path)
    wait_until(page, lambda: not running(host))


def see_an_app(page, host, tmp_path) -> None:
    """The curve as a picture while it trains; at the end also the pictures of before and after."""
    wait_until(page, lambda: page.evaluate(CURVE_SEEN))
    assert running(host)
    keep_screenshot(page, "newcomer_running", tmp_path)
    wait_until(page, lambda: not running(host))
    wait_until(page, lambda: pictures(page, "curve_") and len(set(pictures(page, "_temp_"))) == 4, 20)
    keep_screenshot(page, "newcomer_done", tmp_path)
    page.locator("img[src*=curve_]").last.click()
    wait_until(page, lambda: page.evaluate(CURVE_SEEN), 20)
    keep_screenshot(page, "newcomer_done_curve", tmp_path)


def test_from_the_templates_to_a_curve(page, host, files, tmp_path):
    try:
        open_from_templates(page)
        assert is_app(page) == KNOWS_APPS
        page.evaluate(SET, SMALL)
        links = page.evaluate("JSON.stringify(app.graph.serialize().links)")
        choose_model(page, MODEL)
        keep_screenshot(page, "newcomer_opened", tmp_path)
        press_run(page)
        wait_until(page, lambda: running(host), 30)
        (see_an_app if is_app(page) else see_a_graph)(page, host, tmp_path)
        assert page.evaluate("JSON.stringify(app.graph.serialize().links)") == links
        assert len((host.base / "output" / "posttrain" / RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 3
        assert (host.base / "models" / "loras" / "posttrain" / f"{RUN}.safetensors").is_file()
        assert faults(page) == []
    finally:
        stop_all(host)
