"""develop.py gpu on the simulated card: the tests marked gpu, and all that is measured, at tiny sizes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from posttrain.benchmarks.gpu import page, run
from posttrain.benchmarks.gpu.measure import Clock, trainers
from posttrain.benchmarks.gpu.models import TINY

ROOT = Path(run.__file__).parents[2]
KINDS = ("FlowGRPO", "DRaFT")


class Outcomes:
    def __init__(self):
        self.found = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.found[report.nodeid] = report.outcome if report.outcome != "failed" else report.longreprtext


def test_the_tests_for_a_card_pass_here():
    """Each of them, in one type of weights (test_trainers.py has them all); nothing is skipped."""
    seen, folder = Outcomes(), ROOT / "tests" / "gpu"
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-k", "not fp"]
    code = pytest.main([str(folder), *options], plugins=[seen])
    assert not {name: words for name, words in seen.found.items() if words != "passed"} and code == 0
    written = re.findall(r"^def (test_\w+)", (folder / "test_card.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.split("::")[1].split("[")[0] for name in seen.found} == set(written) and len(written) >= 6


def chosen(*names: str) -> list[type]:
    return [kind for kind in trainers() if kind.__name__ in names]


def test_every_part_is_measured_and_the_page_says_so(tmp_path):
    said, place = [], tmp_path / "gpu.md"
    outcomes = [page.Outcome("a test", "passed", 0.5)]
    assert run.everything(TINY, torch.bfloat16, Clock.of(300), place, outcomes, chosen(*KINDS), said.append) == 0
    text = place.read_text(encoding="utf-8")
    assert "Simulated GPU" in text and torch.__version__ in text and page.NOT_YET not in text and "Left out" not in text
    for size in TINY:
        part = text.split(f"## {size.name}")[1].split("\n## ")[0]
        rows = {cells[1]: cells for line in part.splitlines() if len(cells := [c.strip() for c in line.split("|")]) == 11}
        assert {*KINDS} <= set(rows) and "takes" in part
        for kind in KINDS:
            assert abs(int(rows[kind][4].rstrip("%"))) <= 30, rows[kind]
            assert float(rows[kind][6].split()[0]) >= 0 and bool(rows[kind][7]) == (kind != "DRaFT")


def test_what_there_is_no_time_for_is_named(tmp_path):
    said, place = [], tmp_path / "gpu.md"
    run.everything(TINY[1:], torch.bfloat16, Clock.of(0.01), place, [], chosen(*KINDS), said.append)
    assert "Left out, for there was no time: FlowGRPO" not in place.read_text(encoding="utf-8")
    assert any("left out" in words and "DRaFT" in words for words in said)


def test_a_trainer_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    from posttrain.benchmarks.gpu import measure

    def broken(here, kind, forward, both):
        if kind.__name__ == "FlowGRPO":
            raise RuntimeError("a fault | of mine")
        return measured(here, kind, forward, both)

    measured = measure.measured
    monkeypatch.setattr(measure, "measured", broken)
    said, place = [], tmp_path / "gpu.md"
    assert (
        run.everything(TINY[1:], torch.bfloat16, Clock.of(300), place, [], chosen("FlowGRPO", "DiffusionDPO"), said.append) == 1
    )
    text = place.read_text(encoding="utf-8")
    assert "RuntimeError: a fault \\| of mine" in text and "| DiffusionDPO | 0" in text
    assert "Failed: SD3.5 Medium, FlowGRPO" in said[-1]
