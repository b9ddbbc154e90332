"""The real ComfyUI-Manager puts an archive into a fresh ComfyUI, from a registry on this machine. Booting such hosts and running
a template there is ``develop.py release --install``."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest
import requests
from posttrain.tools import manager
from posttrain.tools.environment import Environment

ENV = Environment(Path(sys.prefix).parent)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "pack.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("__init__.py", "NODE_CLASS_MAPPINGS = {}\n")
        packed.writestr("pyproject.toml", '[project]\nname = "posttrain"\nversion = "1.2.3"\n')
    return path


def test_the_registry_answers_what_the_manager_asks(archive):
    with manager.registry(archive, "1.2.3") as address:
        listed = requests.get(f"{address}/nodes?page=1&limit=30", timeout=5).json()
        release = requests.get(f"{address}/nodes/posttrain/install?version=1.2.3", timeout=5).json()
        assert listed["totalPages"] == 1 and [node["latest_version"] for node in listed["nodes"]] == [release]
        assert release["version"] == "1.2.3" and requests.get(release["downloadUrl"], timeout=5).content == archive.read_bytes()
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=5)


def test_the_manager_installs_it_in_a_host_that_has_nothing(archive, tmp_path, monkeypatch):
    host = manager.fresh(Path(os.environ["COMFYUI_DIR"]), tmp_path / "ComfyUI")
    assert (host / "main.py").is_file() and not list((host / "custom_nodes").iterdir()) and not (host / "output").exists()
    monkeypatch.setenv("PYTHONPATH", str(manager.installer(ENV)))
    place = manager.install(host, archive, "1.2.3")
    assert place == host / "custom_nodes" / "posttrain" and (place / "pyproject.toml").is_file()
    with pytest.raises(RuntimeError, match="did not install it"):  # no archive
        manager.install(host, Path(__file__), "1.2.4")
