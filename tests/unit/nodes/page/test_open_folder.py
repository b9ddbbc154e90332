"""A run's folder is opened for who sits at the machine, and nothing but a run's folder."""

from __future__ import annotations

import json
import os
import webbrowser

import pytest
from posttrain.nodes.page import open_folder
from posttrain.tests.unit.nodes.page.test_live import make_run
from posttrain.tests.unit.nodes.page.test_routes import asked

HOST = {"Host": "localhost:8188"}


@pytest.mark.parametrize(
    "remote, headers, here",
    [
        ("127.0.0.1", HOST, True),
        ("::1", {"Host": "[::1]:8188"}, True),
        ("::ffff:127.0.0.1", {"Host": "127.0.0.1"}, True),
        ("192.168.0.7", HOST, False),
        ("", HOST, False),
        (None, HOST, False),
        ("127.0.0.1", {"Host": "a.site.example:8188"}, False),
        ("127.0.0.1", {}, False),
        *(("127.0.0.1", {**HOST, name: "10.0.0.1"}, False) for name in open_folder.ON_THE_WAY),
    ],
)
def test_who_sits_at_the_machine(remote, headers, here):
    assert open_folder.is_here(remote, headers) is here


def post(run, body, **headers):
    options = {"data": json.dumps(body).encode(), "headers": headers}
    ((status, _, text),) = asked([("POST", f"/posttrain/runs/{run}/open", options)], register=(open_folder,))
    return status, json.loads(text)


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What was opened; the folder of runs holds "first" and a link that leads out of it."""
    monkeypatch.setattr("folder_paths.output_directory", str(tmp_path))
    root = tmp_path / "posttrain"
    root.mkdir()
    make_run(root)
    (root / "linked").symlink_to(tmp_path)
    found = []
    monkeypatch.setattr(open_folder, "show", found.append)
    return found


def test_the_runs_folder_and_nothing_else_is_opened(shown, tmp_path):
    assert post("first", {"open": "first"}) == (200, {"run": "first"}) and shown == [tmp_path / "posttrain" / "first"]
    for run, body in (("linked", {"open": "linked"}), ("..", {"open": ".."}), ("first", {"open": "other"}), ("first", {})):
        assert post(run, body)[0] in (400, 404)
    assert "for nobody else" in post("first", {"open": "first"}, **{"X-Forwarded-For": "10.0.0.1"})[1]["error"]
    assert post("first", {"open": "first"}, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert len(shown) == 1


def test_a_desktop_is_asked_and_a_console_never(tmp_path, monkeypatch):
    opened, known = [], set()

    class Desktop:
        def open(self, address):
            return opened.append(address) is None

    def get(name):
        if name not in known:
            raise webbrowser.Error
        return Desktop()

    monkeypatch.delattr(os, "startfile", raising=False)
    monkeypatch.setattr(webbrowser, "get", get)
    for there in ({"xdg-open", "lynx"}, {"macosx", "www-browser"}):
        known.clear()
        known |= there
        open_folder.show(tmp_path)
    assert opened == [tmp_path.as_uri()] * 2
    known.clear()
    known |= {"lynx", "w3m", "www-browser"}
    with pytest.raises(ValueError, match="no desktop that could show a folder"):
        open_folder.show(tmp_path)
    monkeypatch.setattr(os, "startfile", opened.append, raising=False)
    open_folder.show(tmp_path)
    assert opened[-1] == tmp_path
