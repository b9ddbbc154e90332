"""Everything that can happen to a run on its way to the disk: killed, cut in half, full, held by somebody else."""
from __future__ import annotations

import os
import signal
import subprocess
import textwrap

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard, child, files, train
from posttrain.trainers.run import Run, RunInUse, RunPlan, Session
from posttrain.trainers.run.checkpoints import SaveFailed, list_checkpoints, save_checkpoint
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
