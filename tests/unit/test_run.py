"""The run folder: resume, questions, and everything that can go wrong with a disk."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from posttrain.trainers import run as runs
from posttrain.trainers.run import Plan, Run, RunInUse, Session, SettingsChanged, TrainingStopped
from posttrain.trainers.run.checkpoints import SaveFailed, list_checkpoints, load_newest, prune, save_checkpoint
from posttrain.trainers.run.metrics import MetricsFile, read_metrics
from posttrain.trainers.run.samples import LARGEST, grid, save_samples

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Counter:
    """The least that a policy can be; each step depends on all before it, so a resume that is not exact shows."""

    value: torch.Tensor = field(default_factory=lambda: torch.tensor([0.5], dtype=torch.float64))
    metrics: dict = field(default_factory=dict)

    def state(self):
        return {"value": self.value, "same memory": self.value}, {"metrics": self.metrics}

    def with_state(self, tensors, meta):
        return replace(self, value=tensors["value"], metrics=meta["metrics"])

    def stepped(self, **metrics):
        value = 3.7 * self.value * (1 - self.value)
        return Counter(value, {"reward_mean": float(value), **metrics})


class Heard(list):
    def __call__(self, kind, **data):
        self.append((kind, data))

    def of(self, kind):
        return [data for k, data in self if k == kind]


def train(root, iterations, *, stop_at=None, heard=None, settings=None, name="cats", error=RuntimeError, **plan):
    """Trains and returns the session; at ``stop_at`` iterations ``error`` is raised, as a failing node would."""
    session = Session(root, Plan(name, iterations, **{"save_every": 4} | plan), Counter(), settings or {"a": 1},
                      heard if heard is not None else Heard(), cancelled=(KeyboardInterrupt,))
    with session:
        while not session.done:
            if session.iteration == stop_at:
                raise error("stopped by the test")
            session.advance(session.policy.stepped())
    return session


def files(root, name="cats"):
    return [i for i, _ in list_checkpoints(root / name / "checkpoints")]


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    whole = train(tmp_path, 30, name="whole")
    for stop in (3, 11, 12, 26):
        with pytest.raises(RuntimeError, match="by the test"):
            train(tmp_path, 30, stop_at=stop)
    resumed = train(tmp_path, 30)
    assert torch.equal(resumed.policy.value, whole.policy.value)
    points = read_metrics(tmp_path / "cats" / "metrics.jsonl")
    assert [p["iteration"] for p in points] == list(range(1, 31))
    expected = [p["reward_mean"] for p in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert [p["reward_mean"] for p in points] == expected


def test_resumed_tensors_can_be_trained(tmp_path):
    train(tmp_path, 2)
    with torch.inference_mode():  # as in a node
        session = Session(tmp_path, Plan("cats", 2), Counter(), {"a": 1}, Heard())
        with session:
            pass
    assert not session.policy.value.is_inference()


def test_finished_run_does_nothing_and_says_so(tmp_path):
    first, heard = train(tmp_path, 5), Heard()
    again = train(tmp_path, 5, heard=heard)
    assert torch.equal(first.policy.value, again.policy.value)
    assert heard.of("iteration") == []
    assert "nothing to do" in heard.of("end")[0]["text"] and "raise 'iterations'" in again.summary


@pytest.mark.parametrize("error, status, word", [(KeyboardInterrupt, "cancelled", "was cancelled"),
                                                 (ValueError, "error", "stopped with an error")])
def test_policy_so_far_is_kept_and_told(tmp_path, error, status, word):
    heard = Heard()
    with pytest.raises(error):
        train(tmp_path, 20, stop_at=7, heard=heard, error=error)
    end = heard.of("end")[0]
    assert end["status"] == status and end["iteration"] == 7
    assert word in end["text"] and str(tmp_path / "cats") in end["text"]
    assert files(tmp_path)[-1] == 7
    assert json.loads((tmp_path / "cats" / "config.json").read_text())["status"] == status


def test_failure_before_the_first_iteration_blocks_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        train(tmp_path, 5, stop_at=0, settings={"a": "typing error"})
    assert train(tmp_path, 5, settings={"a": "mended"}).iteration == 5


def test_changed_settings_are_a_question(tmp_path):
    train(tmp_path, 4, settings={"Rate.rate": 0.1, "Size.width": 8, "Gone.x": 1})
    with pytest.raises(SettingsChanged) as asked:
        train(tmp_path, 8, settings={"Rate.rate": 0.2, "Size.width": 8, "New.y": 2})
    for words in ("Rate.rate: 0.1 -> 0.2", "Gone.x: 1 -> (not there)", "New.y: (not there) -> 2", "4 iterations saved",
                  "'continue with changed settings'", "'start over'", "another run_name"):
        assert words in str(asked.value)
    assert "Size.width" not in str(asked.value)
    went_on = train(tmp_path, 8, settings={"Rate.rate": 0.2}, when_exists="continue with changed settings")
    assert went_on.iteration == 8
    config = json.loads((tmp_path / "cats" / "config.json").read_text())
    assert config["settings"] == {"Rate.rate": 0.2} and config["changes"][0]["iteration"] == 4
    assert train(tmp_path, 9, settings={"Rate.rate": 0.2}).iteration == 9


def test_start_over_moves_the_old_run_aside_each_time(tmp_path):
    train(tmp_path, 4)
    for number in (1, 2):
        heard = Heard()
        session = train(tmp_path, 6, heard=heard, when_exists="start over")
        assert session.iteration == 6 and len(heard.of("iteration")) == 6
        assert f"cats_backup_{number}" in heard.of("message")[0]["text"]
    assert files(tmp_path, "cats_backup_1") == [4] and files(tmp_path, "cats_backup_2") == [4, 6]


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a\\b", "..", ".", "../x", "/x", "C:x", "x.", " x", "nul",
                                  "COM1.txt", "a\nb", "a*b", "x" * 81, "ü" * 81])
def test_bad_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="run_name"):
        train(tmp_path, 1, name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["my run", "Katzen-süß_1", "猫", "v1.2", "console"])
def test_good_names_are_taken(tmp_path, name):
    assert train(tmp_path, 1, name=name).iteration == 1


def test_unknown_choice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="when_run_exists"):
        Run.open(tmp_path, "x", {}, "whatever")


def test_second_run_at_once_is_refused_here(tmp_path):
    run = Run.open(tmp_path, "cats", {})
    with pytest.raises(RunInUse, match="in this ComfyUI"):
        Run.open(tmp_path, "cats", {})
    run.close()
    Run.open(tmp_path, "cats", {}).close()


def child(tmp_path, code, **extra):
    """Python in another process, with the pack importable."""
    head = f"""
        import sys, types, time, json
        from pathlib import Path
        pack = types.ModuleType("posttrain"); pack.__path__ = [{str(ROOT)!r}]; sys.modules["posttrain"] = pack
        import torch
        from posttrain.trainers.run import Run, Session, Plan
        root = Path({str(tmp_path)!r})
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **extra)


def test_other_process_holds_the_run_until_it_dies(tmp_path):
    other = child(tmp_path, 'run = Run.open(root, "cats", {}); print("held", flush=True); time.sleep(60)')
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunInUse, match=f"process {other.pid}"):
            Run.open(tmp_path, "cats", {})
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    Run.open(tmp_path, "cats", {}).close()  # what a dead process left is taken over


def test_killed_process_resumes_exactly(tmp_path):
    other = child(tmp_path, f"""
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_run import Counter
        with Session(root, Plan("cats", 10**6, save_every=4), Counter(), {{"a": 1}}, lambda *a, **k: None) as s:
            while True:
                s.advance(s.policy.stepped()); print(s.iteration, flush=True); time.sleep(0.002)
    """)
    for line in other.stdout:
        if int(line) >= 15:
            break
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with open(tmp_path / "cats" / "metrics.jsonl", "ab") as file:
        file.write(b'{"iteration": 99, "rewa')  # killed in mid-write
    reached = files(tmp_path)[-1]
    assert reached % 4 == 0 and reached >= 8
    whole = train(tmp_path, 40, name="whole")
    assert torch.equal(train(tmp_path, 40).policy.value, whole.policy.value)
    assert [p["iteration"] for p in read_metrics(tmp_path / "cats" / "metrics.jsonl")] == list(range(1, 41))


@pytest.mark.parametrize("damage", ["half", "empty", "garbage"])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    with pytest.raises(RuntimeError):
        train(tmp_path, 20, stop_at=10)
    newest = tmp_path / "cats" / "checkpoints" / "state_000010.safetensors"
    content = newest.read_bytes()
    newest.write_bytes({"half": content[:len(content) // 2], "empty": b"", "garbage": os.urandom(len(content))}[damage])
    heard = Heard()
    resumed = train(tmp_path, 20, heard=heard)
    assert heard.of("start")[0]["iteration"] == 8
    assert "state_000010.safetensors cannot be read" in heard.of("message")[0]["text"]
    assert torch.equal(resumed.policy.value, train(tmp_path, 20, name="whole").policy.value)
    assert newest.with_suffix(".damaged").exists()
    assert [p["iteration"] for p in read_metrics(tmp_path / "cats" / "metrics.jsonl")] == list(range(1, 21))


def test_all_checkpoints_damaged_starts_from_the_beginning(tmp_path):
    train(tmp_path, 4)
    for _, path in list_checkpoints(tmp_path / "cats" / "checkpoints"):
        path.write_bytes(b"no")
    heard = Heard()
    assert train(tmp_path, 4, heard=heard).iteration == 4
    assert heard.of("start")[0]["iteration"] == 0


def test_lost_config_is_a_question(tmp_path):
    train(tmp_path, 4)
    (tmp_path / "cats" / "config.json").write_text("{ not json")
    with pytest.raises(SettingsChanged, match="config.json: cannot be read"):
        train(tmp_path, 8)
    assert train(tmp_path, 8, when_exists="continue with changed settings").iteration == 8


def test_folder_that_vanished_is_a_new_run(tmp_path):
    import shutil
    train(tmp_path, 4)
    shutil.rmtree(tmp_path / "cats")
    heard = Heard()
    train(tmp_path, 4, heard=heard)
    assert len(heard.of("iteration")) == 4


def test_last_two_and_each_tenth_are_kept(tmp_path):
    train(tmp_path, 21, save_every=1)
    assert files(tmp_path) == [10, 20, 21]
    prune(tmp_path / "nowhere", 1)


def test_metrics_hold_no_number_that_json_lacks(tmp_path):
    out = MetricsFile(tmp_path / "m.jsonl", 0)
    out.append({"iteration": 1, "loss": float("nan"), "kl": float("inf"), "reward": torch.tensor(2.0), "note": "x"})
    out.close()
    text = (tmp_path / "m.jsonl").read_text()
    assert json.loads(text) == {"iteration": 1, "loss": None, "kl": None, "reward": 2.0, "note": "x"}
    assert "NaN" not in text and "Infinity" not in text


def test_damaged_line_in_the_middle_costs_only_itself(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"iteration": 1}\n\x00\x00garbage\n{"iteration": 3}\n{"iteration": 4}\n{"iteration": 5')
    assert [p["iteration"] for p in read_metrics(path, since=1)] == [3, 4]
    MetricsFile(path, 3).close()
    assert path.read_bytes().endswith(b'{"iteration": 3}\n')


def test_three_skipped_updates_stop_with_the_state_saved(tmp_path):
    session = Session(tmp_path, Plan("cats", 50), Counter(), {}, Heard())
    with pytest.raises(TrainingStopped, match="3 updates in a row"), session:
        for in_a_row in (0, 1, 2, 0, 1, 2, 3, 4):
            session.advance(session.policy.stepped(skipped_updates_in_a_row=in_a_row))
    assert session.iteration == 7 and files(tmp_path)[-1] == 7


def test_what_is_not_a_policy_is_refused(tmp_path):
    with pytest.raises(TypeError, match="policy: .* a dict"):
        Session(tmp_path, Plan("cats", 1), {}, {}, Heard())
    assert list(tmp_path.iterdir()) == []


def test_loop_inside_a_loop_leaves_no_folder(tmp_path):
    outer = Session(tmp_path, Plan("outer", 1), Counter(), {}, Heard())
    with outer:
        inner = Session(tmp_path, Plan("inner", 5), outer.policy, {}, Heard())
        with inner:
            while not inner.done:
                inner.advance(inner.policy.stepped())
        outer.advance(inner.policy)
    assert [p.name for p in tmp_path.iterdir()] == ["outer"]
    assert inner.iteration == 5


def test_time_left_is_that_of_the_recent_iterations(tmp_path):
    heard = Heard()
    session = Session(tmp_path, Plan("cats", 30), Counter(), {}, heard)
    with session:
        for _ in range(24):
            time.sleep(0.05 if session.iteration < 3 else 0.005)
            session.advance(session.policy)
    assert heard.of("iteration")[2]["seconds_left"] > 1.0
    assert heard.of("iteration")[-1]["seconds_left"] < 0.2


def full_disk(tmp_path, body):
    """Runs ``body`` where files cannot grow beyond 20 kB: as for a full disk, a write fails in the middle."""
    return child(tmp_path, f"""
        import resource, signal
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_run import Counter, Heard, files
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        heard = Heard()
        {textwrap.indent(textwrap.dedent(body), "        ").strip()}
    """).communicate(timeout=120)


def test_full_disk_costs_a_warning_and_no_state(tmp_path):
    out, err = full_disk(tmp_path, """
        class Big(Counter):
            def state(self): return {"value": self.value, "ballast": torch.zeros(10000)}, {"metrics": {}}
            def stepped(self): return Big(3.7 * self.value * (1 - self.value))
        session = Session(root, Plan("cats", 12, save_every=4), Big(), {}, heard)
        try:
            with session:
                while not session.done:
                    session.advance(session.policy.stepped())
                    if session.iteration == 5: limit(20_000)
        except Exception as error:
            print(type(error).__name__, error)
        print([d["text"] for d in heard.of("message")])
        print(files(root), heard.of("end")[0]["status"], session.iteration, len(heard.of("iteration")))
        print(sorted(p.name for p in (root / "cats" / "checkpoints").iterdir()))
        limit(resource.RLIM_INFINITY)
        heard.clear()
        with Session(root, Plan("cats", 12), Big(), {}, heard) as again: pass
        print(heard.of("start")[0]["iteration"], torch.equal(again.policy.value, session.policy.value), files(root))
    """)
    lines = out.splitlines()
    assert len(lines) == 5, err
    assert lines[0].startswith("SaveFailed") and "iteration 12 could not be saved" in lines[0]
    assert "The state of iteration 8 could not be written" in lines[1] and "The training goes on" in lines[1]
    assert "kept in memory" in lines[1]
    assert lines[2] == "[4] error 12 12"  # the checkpoint before is intact
    assert lines[3] == "['state_000004.safetensors']"  # and nothing half-written lies about
    assert lines[4] == "12 True [4, 12]"


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = not os.name == "nt" and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("only root may mount a small disk; the tests above limit the size of files instead")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_really_full_disk(small_disk):
    heard = Heard()
    session = Session(small_disk, Plan("cats", 9, save_every=2), Counter(), {"a": 1}, heard)
    with pytest.raises(SaveFailed, match="the disk is full; free some space"), session:
        while not session.done:
            session.advance(session.policy.stepped())
            if session.iteration == 3:
                with open(small_disk / "ballast", "wb", buffering=0) as file, pytest.raises(OSError):
                    while True:
                        file.write(b"x" * 1000)
    assert files(small_disk) == [2] and len(heard.of("iteration")) == 9
    (small_disk / "ballast").unlink()
    again = train(small_disk, 9)
    assert files(small_disk) == [2, 9] and torch.equal(again.policy.value, session.policy.value)


def test_full_disk_leaves_whole_lines_of_metrics(tmp_path):
    out, err = full_disk(tmp_path, """
        limit(300)
        from posttrain.trainers.run.metrics import MetricsFile, read_metrics
        file, failed = MetricsFile(root / "m.jsonl", 0), 0
        for i in range(1, 30):
            try: file.append({"iteration": i, "reward": 0.123456789})
            except OSError: failed += 1
        limit(resource.RLIM_INFINITY)
        file.append({"iteration": 30})
        lines = (root / "m.jsonl").read_bytes().count(b"\\n")
        print(failed, [p["iteration"] for p in read_metrics(root / "m.jsonl")], lines)
    """)
    failed, rest = out.split(" ", 1)
    whole = 29 - int(failed)
    assert 0 < int(failed) and rest.strip() == f"{[*range(1, whole + 1), 30]} {whole + 1}", err


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(RuntimeError, match="cats cannot be written .*output folder"):
        train(tmp_path / "runs", 1)


def test_failed_save_names_the_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(SaveFailed, match="iteration 3 could not be saved in .*checkpoints"):
        save_checkpoint(tmp_path / "checkpoints", 3, {"a": torch.zeros(1)}, {})


def test_state_comes_back_bit_for_bit(tmp_path):
    tensors = {"half": torch.randn(3, 5).half(), "view": torch.randn(9, 4)[2:5], "turned": torch.randn(3, 4).T,
               "none": torch.zeros(0, 3), "whole": torch.arange(4), "scalar": torch.tensor(0.1, dtype=torch.float64)}
    meta = {"rewards": {"a cat": [0.1, 1 / 3, 1e-300]}, "step": 3, "metrics": {"loss": float("inf")}}
    save_checkpoint(tmp_path, 3, tensors, meta)
    (iteration, loaded, loaded_meta), said = load_newest(tmp_path)
    assert (iteration, loaded_meta, said) == (3, meta, [])
    for key, value in tensors.items():
        assert torch.equal(loaded[key], value) and loaded[key].dtype == value.dtype


@pytest.mark.parametrize("shape", [(5, 24, 24, 3), (1, 24, 24, 3), (64, 32, 32, 3), (30, 700, 300, 3), (2, 8, 8, 1),
                                   (3, 1000, 4, 4)])
def test_sample_grid_is_readable_and_bounded(tmp_path, shape):
    from PIL import Image
    path = save_samples(torch.rand(shape) * 3 - 1, tmp_path, 10)
    assert path.name.startswith("iteration_000010.")
    with Image.open(path) as picture:
        assert 96 <= max(picture.size) <= LARGEST
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_sample_grid_shows_the_images_in_order():
    images = torch.zeros(4, 2, 2, 3)
    for i in range(4):
        images[i, ..., i % 3] = 1.0
    sheet = grid(images)
    step = sheet.size[0] // 2 + 1
    corners = [sheet.getpixel((x + 40, y + 40)) for y in (0, step) for x in (0, step)]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0)]


def test_samples_that_cannot_be_drawn_do_not_stop_the_training(tmp_path):
    heard = Heard()
    session = Session(tmp_path, Plan("cats", 2, samples_every=1), Counter(), {}, heard)
    with session:
        session.advance(session.policy, torch.zeros(3, 3))
        session.advance(session.policy, torch.rand(3, 8, 8, 3))
    assert "images: expected" in heard.of("message")[0]["text"]
    assert [d["file"][:16] for d in heard.of("samples")] == ["iteration_000002"]


def test_import_is_light():
    code = ("import sys, types, torch; pack = types.ModuleType('posttrain'); pack.__path__ = [sys.argv[1]]; "
            "sys.modules['posttrain'] = pack; import posttrain.trainers.run; print('PIL' in sys.modules)")
    assert subprocess.check_output([sys.executable, "-c", code, str(ROOT)], text=True).strip() == "False"
    assert runs.WHEN_EXISTS[0] == "continue"
