"""Everything that can happen to a run on its way to the disk: killed, cut in half, full, held by somebody else."""
from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import textwrap
import time

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard, child, files, train
from posttrain.trainers.run import Run, RunInUse, RunPlan, Session
from posttrain.trainers.run.checkpoints import BrokenCheckpoint, SaveFailed, list_checkpoints, load_checkpoint, save_checkpoint
from posttrain.trainers.run.metrics import read_metrics


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
    other = child(tmp_path, """
        from posttrain.tests.unit.trainers.run.run_helpers import Counter
        with Session(root, RunPlan("cats", 10**6, save_every=4), Counter(), {"a": 1}, lambda *a, **k: None) as s:
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


def full_disk(tmp_path, body):
    """Runs ``body`` where files cannot grow beyond 20 kB: as for a full disk, a write fails in the middle."""
    return child(tmp_path, f"""
        import resource, signal
        from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard, files
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
        session = Session(root, RunPlan("cats", 12, save_every=4), Big(), {}, heard)
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
        with Session(root, RunPlan("cats", 12), Big(), {}, heard) as again: pass
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
    session = Session(small_disk, RunPlan("cats", 9, save_every=2), Counter(), {"a": 1}, heard)
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
    assert 0 < int(failed) < 29 and rest.strip() == f"{[*range(1, 31)]} 30", err  # what had no room was written later


def test_a_kill_in_mid_save_leaves_nothing_behind(tmp_path):
    """Wherever it falls: the next run goes on from a whole state, and nothing of the save that was cut is there any more."""
    for number in range(4):
        other = child(tmp_path, """
            from posttrain.tests.unit.trainers.run.run_helpers import Counter
            class Big(Counter):
                def state(self): return {"value": self.value, "ballast": torch.rand(2_000_000)}, {"metrics": {}}
                def stepped(self): return Big(3.7 * self.value * (1 - self.value))
            with Session(root, RunPlan("cats", 10**6, save_every=1), Big(), {"a": 1}, lambda *a, **k: None) as s:
                while True: s.advance(s.policy.stepped()); print(s.iteration, flush=True)
        """)
        assert int(other.stdout.readline())
        time.sleep(0.01 + 0.007 * number)
        other.send_signal(signal.SIGKILL)
        other.communicate()
    left = [path.name for path in (tmp_path / "cats" / "checkpoints").rglob("*") if not path.name.startswith("state_0")]
    reached = files(tmp_path)[-1]
    assert train(tmp_path, reached + 1).iteration == reached + 1
    kept = [path.name for path in (tmp_path / "cats" / "checkpoints").rglob("*")]
    assert kept == [name for name in kept if re.fullmatch(r"state_\d+\.safetensors", name)], left


@pytest.mark.parametrize("name", ["state_000002.safetensors.77.posttrain-part/whole", "state_000002.tmp", ".tmpAb3dE", "x.1.posttrain-part/.tmp77"])
def test_what_a_killed_save_left_is_taken_away_at_the_next_start(tmp_path, name):
    train(tmp_path, 4)
    left = tmp_path / "cats" / "checkpoints" / name
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(bytes(1000))
    train(tmp_path, 5)
    assert not left.exists() and files(tmp_path) == [4, 5]


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
    """300 bits of a checkpoint, one at a time: none is used as something else than was saved."""
    tensors = {"bank/a": torch.rand(4, 3), "bank/b": torch.rand(2).half(), "optimizer/n": torch.tensor(3)}
    path = save_checkpoint(tmp_path, 7, tensors, {"step": 7, "memory": {"cat": [1.5]}})
    content, choose, refused = path.read_bytes(), random.Random(0), 0
    iteration, saved, meta = load_checkpoint(path)
    assert iteration == 7 and all(torch.equal(saved[key], tensors[key]) for key in tensors)
    for bit in choose.sample(range(8 * len(content)), 300):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = load_checkpoint(path)
        except BrokenCheckpoint as error:
            refused += 1
            assert len(str(error)) < 600
            continue
        assert found[0] == 7 and found[2] == meta and found[1].keys() == tensors.keys()
        assert all(torch.equal(found[1][key], tensors[key]) for key in tensors), bit
    assert refused > 250


def test_a_checkpoint_of_an_earlier_version_has_no_digest_and_is_read(tmp_path):
    import safetensors.torch
    path = tmp_path / "state_000003.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"posttrain": json.dumps({"iteration": 3, "policy": {"step": 1}})})
    assert load_checkpoint(path)[0] == 3


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(RuntimeError, match="cats cannot be written .*output folder"):
        train(tmp_path / "runs", 1)


def test_failed_save_names_the_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(SaveFailed, match="iteration 3 could not be saved in .*checkpoints"):
        save_checkpoint(tmp_path / "checkpoints", 3, {"a": torch.zeros(1)}, {})
