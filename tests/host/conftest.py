"""A real ComfyUI server for the tests of this folder: one for the whole session, and others on demand."""
from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from posttrain.tools.beside import asked
from posttrain.tools.host import Host

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "trainers" / "policy"))  # small models

LAB_PACK = Path(__file__).with_name("lab_pack")  # nodes that only the tests use
PACKS = [*([LAB_PACK] if LAB_PACK.is_dir() else []), *asked()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with Host(tmp_path_factory.mktemp("comfyui"), packs=PACKS) as running:
        yield running


@pytest.fixture(scope="module")
def host(server):
    """The server that most tests share; do not stop it. A test file finds no run of another file's."""
    shutil.rmtree(server.base / "output" / "posttrain", ignore_errors=True)
    return server


@pytest.fixture
def host_with(tmp_path_factory):
    """Boots another server: ``host_with("--cache-none")``, or ``host_with(base=folder)`` on a folder that exists."""
    started: list[Host] = []

    def boot(*arguments: str, base: Path | None = None) -> Host:
        base = base or tmp_path_factory.mktemp("comfyui")
        started.append(Host(base, *arguments, packs=PACKS))
        return started[-1]

    yield boot
    for running in started:
        running.stop()


def pytest_terminal_summary(terminalreporter) -> None:
    """Says which other hosts the suite took along."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if "test_other_hosts.py::test_the_pack_works_there" in report.nodeid:
                host = report.nodeid.rpartition("[")[2].rstrip("]")
                terminalreporter.write_line(f"Also on {host}, its boot, templates and policy tests: {outcome}")
