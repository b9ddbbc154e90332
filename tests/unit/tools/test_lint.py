"""ruff and mypy find nothing outside the baseline, and the baseline holds nothing that is mended."""
from __future__ import annotations

import json

from posttrain.tools.lint import BASELINE, compared, found


def test_nothing_new_and_nothing_mended():
    new, gone = compared(found(), json.loads(BASELINE.read_text(encoding="utf-8")))
    assert not new, "run python develop.py lint"
    assert not gone, "mended: take it out with python develop.py lint --write"


def test_a_new_error_is_seen():
    baseline = {"ruff": {"a.py F401": 1}, "format": {}, "mypy": {}}
    assert compared({"ruff": {"a.py F401": 2}, "format": {"b.py format": 1}, "mypy": {}}, baseline)[0] == [
        "format: b.py format, 1 (baseline: 0)", "ruff: a.py F401, 2 (baseline: 1)"]
    assert compared({"ruff": {}, "format": {}, "mypy": {}}, baseline) == ([], ["ruff: a.py F401, 0 (baseline: 1)"])
