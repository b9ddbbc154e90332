"""The page at /posttrain names scripts that are there, wherever the host serves the pack's from."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest
from posttrain.nodes.page import own_page


@pytest.mark.parametrize("name, served", [("ComfyUI-PostTrain", "ComfyUI-PostTrain"), ("my pack", "my%20pack")])
def test_every_address_of_the_page_is_a_file_of_ours(monkeypatch, name, served):
    known = {"other": str(own_page.WEB.parent), name: str(own_page.WEB / ".." / "web")}
    monkeypatch.setitem(sys.modules, "nodes", SimpleNamespace(EXTENSION_WEB_DIRS=known))
    begin = f"./extensions/{served}/"
    found = re.findall(r'"(\./extensions/[^"]+)"', own_page.page())
    assert len(found) == 6 and own_page.PLACE not in own_page.page()
    for address in found:
        assert address.startswith(begin) and (own_page.WEB / address.removeprefix(begin)).is_file()


def test_a_host_that_does_not_say_serves_the_folders_name(monkeypatch):
    monkeypatch.delitem(sys.modules, "nodes", raising=False)
    assert own_page.served_as() == own_page.WEB.parent.name
