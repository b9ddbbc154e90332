"""A process that dies at any single line of the run's code: the next one ends the training as if nothing had been."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import ROOT, files, train
from posttrain.trainers.run.metrics import read_metrics

KILLS = int(os.environ.get("POSTTRAIN_KILLS", "40"))
CODE = tuple(str(ROOT / part) for part in ("trainers/run/", "rewards/base/files.py"))
WAYS = {
    "a new run": lambda root: train(root, 6, save_every=2),
    "a run that goes on": lambda root: train(root, 6, save_every=1, when_exists="continue with changed settings"),
    "a start over": lambda root: train(root, 6, save_every=3, when_exists="start over"),
    "a run that goes back": lambda root: train(root, 6, save_every=1, continue_from=2),
}


def in_a_fork(act) -> int:
    """Runs ``act`` in a copy of this process -> its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Lines:
    """Counts the lines of the run's code that are run; at line ``last`` the process kills itself."""

    def __init__(self, last: int | None = None):
        self.count, self.last = 0, last

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self

    def over(self, act):
        sys.settrace(self)
        try:
            act()
        finally:
            sys.settrace(None)


def prepared(root: Path, way: str) -> None:
    if way != "a new run":
        train(root, 3, save_every=1)


def counted(root: Path, way: str) -> int:
    """How many lines that way runs."""
    prepared(root, way)
    file = root / "count"

    def act():
        lines = Lines()
        lines.over(lambda: WAYS[way](root))
        file.write_text(str(lines.count))

    assert in_a_fork(act) == 0
    return int(file.read_text())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("way", WAYS)
def test_a_kill_at_any_line_loses_nothing(tmp_path, way):
    total = counted(tmp_path / "count", way)
    whole = train(tmp_path / "whole", 6).policy.value
    each = max(1, KILLS // len(WAYS))
    places = sorted({1 + number * (total - 1) // max(1, each - 1) for number in range(each)})
    for place in places:
        root = tmp_path / str(place)
        prepared(root, way)
        assert in_a_fork(lambda: Lines(place).over(lambda: WAYS[way](root))) == -signal.SIGKILL
        session = WAYS[way](root) if way == "a run that goes back" else train(root, 6, save_every=2)
        assert torch.equal(session.policy.value, whole), place
        points = [point["iteration"] for point in read_metrics(root / "cats" / "metrics.jsonl")]
        assert points == list(range(1, 7)), (place, points)
        assert {path.name for path in (root / "cats").iterdir()} <= {
            "config.json",
            "history.jsonl",
            "lock",
            "metrics.jsonl",
            "checkpoints",
            "samples",
        }, place
        assert all(path.name.startswith("state_0") for path in (root / "cats" / "checkpoints").iterdir()), place
        for backup in root.glob("cats_backup_*"):
            old = [point["iteration"] for point in read_metrics(backup / "metrics.jsonl")]
            assert old and old == list(range(1, len(old) + 1)) and len(list((backup / "checkpoints").iterdir())) >= 1, place
        if way == "a run that goes back":
            assert old == [1, 2, 3] and files(root, "cats_backup_1") == [1, 2, 3], place
            assert len(list(root.glob("cats_backup_*"))) == 1, place
    assert len(places) >= min(each, total) - 1 and total > 200
