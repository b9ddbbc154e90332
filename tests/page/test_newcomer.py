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
    TEMPLATE,
    WITH_APPS,
    choose_model,
    is_app,
    iterations_kept,
    open_from_templates,
    pictures,
    press_run,
    run_of,
)
from posttrain.tools.templates_own import ONE_BLOCK


def running(host) -> bool:
    return bool(host.get("/queue").json()["queue_running"])


def see_a_graph(page, host, tmp_path, template) -> None:
    """The live curve on the node that trains."""
    fit(page)
    drawn = "document.querySelector('.pt-node .pt-reward canvas')?.width ?? 0"
    wait_until(page, lambda: page.evaluate(drawn) > 0)
    keep_screenshot(page, "newcomer_running", tmp_path)
    wait_until(page, lambda: not running(host))


def see_an_app(page, host, tmp_path, template) -> None:
    """The curve as a picture while it trains; at the end also the pictures of before and after."""
    wait_until(page, lambda: page.evaluate(CURVE_SEEN))
    assert running(host)
    keep_screenshot(page, f"newcomer_running_{template.source}", tmp_path)
    wait_until(page, lambda: not running(host))
    # around a block the curve is a preview's picture, as the four of before and after are
    curve, previews = ("curve_", 4) if template is TEMPLATE else ("_temp_", 5)
    wait_until(page, lambda: pictures(page, curve) and len(set(pictures(page, "_temp_"))) == previews, 20)
    keep_screenshot(page, f"newcomer_done_{template.source}", tmp_path)
    page.locator(f"img[src*={curve}]").last.click()
    wait_until(page, lambda: page.evaluate(CURVE_SEEN), 20)
    keep_screenshot(page, f"newcomer_done_curve_{template.source}", tmp_path)


@pytest.mark.parametrize("template", [TEMPLATE, pytest.param(ONE_BLOCK, marks=WITH_APPS)], ids=["nodes", "block"])
def test_from_the_templates_to_a_curve(page, host, own_model, template, tmp_path):
    try:
        open_from_templates(page, template)
        assert is_app(page) == KNOWS_APPS
        page.evaluate(SET, SMALL)
        links = page.evaluate("JSON.stringify(app.graph.serialize().links)")
        choose_model(page, own_model)
        keep_screenshot(page, f"newcomer_opened_{template.source}", tmp_path)
        press_run(page)
        wait_until(page, lambda: running(host), 30)
        (see_an_app if is_app(page) else see_a_graph)(page, host, tmp_path, template)
        assert page.evaluate("JSON.stringify(app.graph.serialize().links)") == links
        assert iterations_kept(host, template) == SMALL["PTTrain"]["iterations"]
        assert (host.base / "models" / "loras" / "posttrain" / f"{run_of(template)}.safetensors").is_file()
        assert faults(page) == []
    finally:
        stop_all(host)
