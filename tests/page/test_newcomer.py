"""A newcomer's path: Templates, one for a model of one's own, a checkpoint chosen, Run, a curve seen. Pages that know apps show
the template as one. No number is typed and no link drawn."""

from __future__ import annotations

from posttrain.tests.page.actions import faults, fit, keep_screenshot, stop_all, wait_until
from posttrain.tests.page.app_mode import (
    CURVE_SEEN,
    KNOWS_APPS,
    OWN_RUN,
    SET,
    SMALL,
    choose_model,
    is_app,
    iterations_kept,
    open_from_templates,
    pictures,
    press_run,
)


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


def test_from_the_templates_to_a_curve(page, host, own_model, tmp_path):
    try:
        open_from_templates(page)
        assert is_app(page) == KNOWS_APPS
        page.evaluate(SET, SMALL)
        links = page.evaluate("JSON.stringify(app.graph.serialize().links)")
        choose_model(page, own_model)
        keep_screenshot(page, "newcomer_opened", tmp_path)
        press_run(page)
        wait_until(page, lambda: running(host), 30)
        (see_an_app if is_app(page) else see_a_graph)(page, host, tmp_path)
        assert page.evaluate("JSON.stringify(app.graph.serialize().links)") == links
        assert iterations_kept(host) == SMALL["PTTrain"]["iterations"]
        assert (host.base / "models" / "loras" / "posttrain" / f"{OWN_RUN}.safetensors").is_file()
        assert faults(page) == []
    finally:
        stop_all(host)
