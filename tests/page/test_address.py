"""The question about another machine's address: nothing is sent before the user's yes, which is asked for once."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from posttrain.tests.page.actions import CLOSE_BUTTONS, DIALOGS, faults, keep_screenshot, open_graph, queue, wait_until


class Judge(BaseHTTPRequestHandler):
    """Answers nothing that is of use; the server counts what reaches it."""

    def do_POST(self):
        self.server.reached.append(self.path)
        self.send_error(400)

    do_GET = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def judge():
    """A judge's server, under an address that does not say that it is this machine's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        server.reached, server.address = [], f"http://0.0.0.0:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asks(address: str, side: int) -> dict:
    """side: another one is another workflow, which the host's cache does not answer."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": side, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PTVLMServer", "inputs": {"url": f"{address}/v1", "model": "m", "timeout": 5.0, "tries": 1, "at_once": 1,
                                                       "image_side": 64}},
        "3": {"class_type": "PTRewardVLM", "inputs": {"vlm": ["2", 0], "kind": "yes or no", "question": "", "average": "mean"}},
        "4": {"class_type": "PTScoreImages", "inputs": {"images": ["1", 0], "reward": ["3", 0], "prompt": "a cat",
                                                         "prompt_mode": "one prompt for all images"}},
    }  # fmt: skip


def asked(page, address: str):
    """The open question's dialog; the host's own words on the node that failed may lie beside it."""
    dialog = (
        page.locator(DIALOGS).filter(has_text=address).filter(has_text="Allow it only if you know whose machine that is").last
    )
    dialog.wait_for(state="visible", timeout=60_000)
    return dialog


def test_another_machine_is_asked_about_once_and_reached_only_after_a_yes(page, host, judge, tmp_path):
    kept = host.base / "user" / "posttrain.json"
    for answer in ("Cancel", "Confirm"):
        open_graph(page, asks(judge.address, 64))
        queue(page)
        question = asked(page, judge.address)
        keep_screenshot(page, "question_about_an_address", tmp_path)
        assert not kept.exists() and judge.reached == []
        question.get_by_role("button", name=answer).click()
        question.wait_for(state="hidden", timeout=60_000)
        page.evaluate(f"() => document.querySelectorAll('{CLOSE_BUTTONS}').forEach(button => button.click())")
    wait_until(page, kept.exists)
    assert json.loads(kept.read_text()) == {"addresses": [judge.address]} and judge.reached == []
    queue(page)
    wait_until(page, lambda: judge.reached)
    assert faults(page) == []
    kept.unlink()
