"""A run in other tools' files, read back by the tools themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image
from posttrain.tools import overlay
from posttrain.tools.environment import Environment
from posttrain.trainers.run import trackers

ROOT = Path(__file__).resolve().parents[4]
POINTS = [
    {"iteration": k, "time": 1e9 + k, "seconds": 1.5, "reward_mean": k / 8, "kl": None, "stopped": "x"} for k in range(1, 5)
]
WRITES_AND_READS = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tools import pack
trackers, run = pack.module("trainers.run.trackers"), Path(sys.argv[2])
for _ in range(2):  # what was written before is replaced
    boards, offline = trackers.to_tensorboard(run), trackers.to_wandb(run)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(str(boards)).Reload()
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore
file, store, rows = next(Path(offline).glob("*.wandb")), DataStore(), []
store.open_for_scan(str(file))
while (data := store.scan_data()) is not None:
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    if record.WhichOneof("record_type") == "history":
        rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item})
print(json.dumps({
    "scalars": {name: [(e.step, e.wall_time, e.value) for e in read.Scalars(name)] for name in read.Tags()["scalars"]},
    "images": {name: [(e.step, e.width, e.height) for e in read.Images(name)] for name in read.Tags()["images"]},
    "rows": rows, "runs": len(list((run / "wandb").glob("offline-run-*")))}))
"""


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "my run"
    (folder / "samples").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in POINTS))
    (folder / "config.json").write_text(json.dumps({"settings": {"PTSampling.steps": 10}}))
    Image.fromarray(numpy.full((8, 16, 3), 200, "uint8")).save(folder / "samples" / "iteration_000002.webp")
    (folder / "samples" / "held_out_000003.webp").symlink_to(folder / "config.json")
    return folder


def test_the_tools_themselves_read_the_same_numbers_and_pictures(run):
    there = overlay.trackers(Environment(Path(sys.prefix).parent))
    done = subprocess.run(
        [sys.executable, "-c", WRITES_AND_READS, str(ROOT), str(run)],
        env=os.environ | {"PYTHONPATH": str(there), "WANDB_ERROR_REPORTING": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["scalars"] == {
        name: [[p["iteration"], p["time"], p[name]] for p in POINTS] for name in ("seconds", "reward_mean")
    }
    assert found["images"] == {"samples": [[2, 16, 8]]} and found["runs"] == 1
    assert [row["_step"] for row in found["rows"]] == [1, 2, 3, 4]
    assert [row["reward_mean"] for row in found["rows"]] == [p["reward_mean"] for p in POINTS]
    assert [row["_step"] for row in found["rows"] if "samples" in row] == [2]


@pytest.mark.parametrize("tool, package", [("tensorboard", "TensorBoard"), ("wandb", "Weights & Biases")])
def test_without_the_tool_it_says_so_and_writes_nothing(run, tool, package, monkeypatch):
    monkeypatch.setitem(sys.modules, tool, None)
    with pytest.raises(ValueError, match=f"^export: for {package} files the Python package '{tool}' is needed"):
        trackers.TOOLS[tool](run)
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "metrics.jsonl", "samples"]


def test_a_link_in_its_place_is_not_followed(run, tmp_path):
    (run / "tensorboard").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="^export: tensorboard in the run's folder is a link"):
        trackers._emptied(run / "tensorboard")
    assert (run / "config.json").is_file()
