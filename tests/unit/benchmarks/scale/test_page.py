"""The tables of docs/scale.md: how numbers stand there, and that they are those of the host's networks."""

from __future__ import annotations

import sys
from dataclasses import replace

from posttrain.tools.host import ROOT

sys.path.append(str(ROOT))  # last, so that ComfyUI's nodes.py is not hidden
from benchmarks.pages import between
from benchmarks.scale import page
from benchmarks.scale.arithmetic import Job, apart, shared
from benchmarks.scale.models import H100, MODELS, job_of

JOB = Job("small", 10**6, 10**5, 10**6, 3, False, 10, 3, 0, 1e12, 2, 16)


def test_numbers_as_a_person_reads_them():
    assert [page.amount(count) for count in (0, 2500, 12.58e6, 1.6e12)] == ["nothing", "2.5 kB", "12.6 MB", "1.6 TB"]
    assert [page.seconds(count) for count in (0.0514, 27.51, 24575.2)] == ["0.0514 s", "27.5 s", "24,575 s"]


def test_limits_are_where_it_turns():
    count = page.most(lambda cards: shared(JOB, H100, cards).idle <= page.FEW)
    assert shared(JOB, H100, count).idle <= page.FEW < shared(JOB, H100, count + 1).idle
    enough = page.samplers(replace(JOB, gradient=0.5), H100)
    drawing = {number: apart(replace(JOB, gradient=0.5), H100, number + 1) for number in (enough - 1, enough)}
    slow = {number: row.sampling + row.exchange > row.training for number, row in drawing.items()}
    assert enough > 1 and slow == {enough - 1: True, enough: False}


def test_a_table_has_a_row_for_each_number_of_cards():
    lines = page.table([JOB], H100, shared).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["1", "8", "64", "256", "1,024"]
    assert [line.split(" | ")[2] for line in lines] == ["16", "128", "1,024", "4,096", "16,384"]


def test_the_page_says_what_the_hosts_network_and_the_recommended_numbers_give():
    """Of one model; else run `python develop.py scale`."""
    (model,) = [each for each in MODELS if each.family == "SD3.5"]
    job, there = job_of(model), between(page.PAGE, page.START, page.END)
    for way in (shared, apart):
        assert all(line in there for line in page.table([job], H100, way).splitlines())
    assert page.sizes([job]).splitlines()[-1] in there
