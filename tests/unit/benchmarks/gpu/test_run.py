"""How the outcome of develop.py gpu is read and told."""

from __future__ import annotations

from pathlib import Path

import pytest
from posttrain.benchmarks.gpu import run
from posttrain.benchmarks.gpu.iteration import Row
from posttrain.benchmarks.gpu.measure import Clock, Part
from posttrain.benchmarks.gpu.models import REAL
from posttrain.benchmarks.gpu.page import Outcome

REPORT = """<testsuites><testsuite><testcase name="a" time="1.5"><properties>
<property name="measured" value="12 of them"/><property name="other" value="1"/></properties></testcase><testcase name="b" time="0"><skipped message="none"/></testcase>
<testcase name="c" time="2"><failure message="assert 1 == 2">words</failure></testcase>
<testcase name="d" time="2"><error message="no fixture"/></testcase></testsuite></testsuites>"""


def test_pytests_report_is_read(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    assert run.read(tmp_path / "report.xml") == [
        Outcome("a", "passed", 1.5, "12 of them"),
        Outcome("b", "skipped", 0.0, "none"),
        Outcome("c", "failed", 2.0, "assert 1 == 2"),
        Outcome("d", "failed", 2.0, "no fixture"),
    ]


@pytest.mark.parametrize(
    "outcomes, parts, code, words",
    [
        ([Outcome("a", "passed", 1.0)], [Part(REAL[0], False, left_out=["SPO"])], 0, "Nothing failed."),
        ([Outcome("a", "failed", 1.0)], [], 1, "Failed: a"),
        ([], [Part(REAL[0], False, rows=[Row("NFT", failed=True)])], 1, "Failed: SDXL, NFT"),
        ([], [Part(REAL[1], False, words="RuntimeError: x")], 1, "Failed: SD3.5 Medium"),
    ],
)
def test_the_verdict_counts_failures_and_names_what_was_left_out(outcomes, parts, code, words):
    said = []
    assert run.verdict(outcomes, parts, said.append, Path("page")) == code
    assert said[-1] == f"page is written. {words}" and any("SPO" in each for each in said) == (code == 0)


def test_time_is_dealt_out():
    clock = Clock.of(100)
    assert 29 < clock.part(0.3).left() <= 30 and 99 < clock.left() <= 100
    assert Clock.of(-1).left() < 0
