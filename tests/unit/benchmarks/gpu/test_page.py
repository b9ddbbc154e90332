"""docs/gpu.md says what was measured, or that nothing was."""

from __future__ import annotations

from pathlib import Path

from posttrain.benchmarks.gpu import page
from posttrain.benchmarks.gpu.bare import Bare
from posttrain.benchmarks.gpu.iteration import Row
from posttrain.benchmarks.gpu.measure import Part
from posttrain.benchmarks.gpu.models import REAL

DOCUMENT = Path(page.__file__).parents[2] / "docs" / "gpu.md"
CARD = page.Card("Card X", 80 * page.GB, "1.2", "2.9", "0.3")


def test_the_page_is_measured_or_says_that_it_is_not():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == page.page(None, [], []) or page.NOT_YET not in text and "Measured on " in text
    assert text.startswith(page.HEAD)


def test_nothing_is_said_that_was_not_measured():
    text = page.page(CARD, [], [Part(REAL[0], False, left_out=["the bare network", "FlowGRPO"])])
    assert "Left out, for there was no time: the bare network, FlowGRPO." in text and "Left out: there was no time" in text
    assert " ms" not in text and " GB |" not in text and "|---" not in text


def test_numbers_failures_and_what_was_left_out():
    rows = [
        Row("FlowGRPO", 22 * page.GB, 20 * page.GB, 24, 1.0, 2.0, 1.05, 1.1),
        Row("DRaFT", None, None, 48, None, 3.0),
        Row("NFT", words="RuntimeError: a | b\nc", failed=True),
    ]
    part = Part(REAL[1], True, Bare(0.05, 0.15, 6), rows, [("mm", 1200, 3.25, 0.5)], ["SPO"])
    text = page.page(CARD, [page.Outcome("a", "failed", 1.5, "why"), page.Outcome("b", "passed", 0.5)], [part])
    assert "Card X (80 GB), driver 1.2, torch 2.9, ComfyUI 0.3" in text and page.NOT_YET not in text
    assert "| FlowGRPO | 22.00 | 20.00 | +10% | 1.00 s | 2.00 s | 1.05x | 1.10x |  |" in text
    assert "| DRaFT |  |  |  |  | 3.00 s |  |  |  |" in text
    assert "| NFT |  |  |  |  |  |  |  | RuntimeError: a \\| b c |" in text
    assert "50.0 ms for an evaluation" in text and "150.0 ms with its backward" in text and "Low memory is on" in text
    assert "| mm | 1,200 | 3.2 ms | 50% |" in text and "| a | failed | 1.5 s | why |" in text and "no time: SPO." in text


def test_a_page_is_written_whole(tmp_path):
    page.write(tmp_path / "gpu.md", "é")
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.md"] and (tmp_path / "gpu.md").read_text(encoding="utf-8") == "é"
