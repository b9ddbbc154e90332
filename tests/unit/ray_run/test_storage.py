"""A training's output on a storage: what is fetched is what was kept, whenever the process that kept it has died."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from posttrain.ray_run.storage import OUTPUT, STATE, Storage, Taken, opened

pytest.importorskip("pyarrow.fs")


@pytest.fixture
def start(tmp_path):
    """(command) -> a process' storage and its own folder, and what ``fetch`` has said."""
    number = iter(range(100))

    def begin(command: str = "one") -> tuple[Storage, Path, bool]:
        own = tmp_path / f"own {next(number)}"
        own.mkdir()
        there = Storage(str(tmp_path / "a.part" / "storage"), own, command)
        return there, own, there.fetch()

    return begin


def write(own: Path, **files: str) -> None:
    for place, content in files.items():
        path = own / "run" / place.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        later = path.stat().st_mtime_ns + 10**9 * len(content)
        os.utime(path, ns=(later, later))


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_one_has_kept_the_next_one_has(start):
    first, own, again = start()
    assert not again and not files(own)
    write(own, metrics="1", checkpoints__1="a", checkpoints__2="b")
    first.keep()
    write(own, metrics="1 2", checkpoints__3="c")
    (own / "run" / "checkpoints" / "1").unlink()
    first.keep()
    for command in ("one", "another"):
        _, other, again = start(command)
        assert again == (command == "one") and files(other) == files(own) and len(files(other)) == 3


def test_only_the_last_one_to_fetch_may_write(start):
    first, own, _ = start()
    write(own, metrics="1")
    first.keep()
    second, other, _ = start()
    write(own, metrics="of the first")
    with pytest.raises(Taken):
        first.keep()
    write(other, metrics="of the second")
    second.keep()
    assert files(start()[1]) == {"run/metrics": "of the second"}


def test_what_is_half_written_or_belongs_to_a_process_is_not_taken(start, tmp_path):
    first, own, _ = start()
    write(own, lock="1", config__tmp="x", metrics="1")
    (own / "run" / "a.tmp").write_text("x")
    (own / "run" / "b.1.posttrain-part").mkdir()
    (own / "run" / "b.1.posttrain-part" / "whole").write_text("x")
    first.keep()
    (tmp_path / "a.part" / "storage" / OUTPUT / "run" / "c.part").write_text("x")
    assert files(start()[1]) == {"run/metrics": "1", "run/config/tmp": "x"}


class Dies(Exception):
    pass


def dying(there: Storage, after: int) -> None:
    """It dies before its write or deletion of this number."""
    left = iter(range(after))

    def counted(inner):
        def do(*values):
            if next(left, None) is None:
                raise Dies
            return inner(*values)

        return do

    there._write = counted(there._write)

    class Files:
        def __init__(self, files):
            self._files, self.delete_file = files, counted(files.delete_file)

        def __getattr__(self, name):
            return getattr(self._files, name)

    there._files = Files(there._files)


@pytest.mark.parametrize("after", range(6))
def test_a_run_that_goes_on_is_whole_whenever_its_process_dies(start, after):
    """The curve may be ahead of the checkpoints, never behind them."""
    first, own, _ = start()
    write(own, metrics="1", checkpoints__1="a")
    first.keep()
    write(own, metrics="1 2", checkpoints__2="b", samples="s")
    (own / "run" / "checkpoints" / "1").unlink()
    dying(first, after)
    if after < 4:
        with pytest.raises(Dies):
            first.keep()
    else:
        first.keep()
    _, other, again = start()
    found = files(other)
    newest = max(int(Path(place).name) for place in found if "checkpoints" in place)
    assert again and len(found["run/metrics"].split()) >= newest >= 1


@pytest.mark.parametrize("after", range(8))
def test_a_run_that_starts_over_is_the_old_one_or_the_new_one_whenever_its_process_dies(start, after):
    """One that this command has not kept yet starts over again: what ``fetch`` says is that it has."""
    first, own, _ = start("before")
    write(own, config="old", checkpoints__1="old")
    first.keep()
    second, own, again = start("now")
    assert not again
    (own / "run").rename(own / "run (1)")
    write(own, config="new, with more words")
    dying(second, after)
    done = True
    try:
        second.keep()
    except Dies:
        done = False
    _, other, again = start("now")
    found = files(other)
    assert again == done
    if done:
        assert found["run/config"].startswith("new") and "run/checkpoints/1" not in found
    assert "old" in [found.get(f"{run}/checkpoints/1") for run in ("run", "run (1)")]
    assert "old" in [found.get(f"{run}/config") for run in ("run", "run (1)")]


def test_it_is_kept_all_the_time_and_at_the_end(start, tmp_path):
    first, own, _ = start()
    with first.kept(lambda: pytest.fail("nobody has taken it")):
        write(own, metrics="1")
    assert files(start()[1]) == {"run/metrics": "1"}
    assert json.loads((tmp_path / "a.part" / "storage" / STATE).read_text())["command"] == "one"


def test_one_whose_storage_was_taken_is_told_once_and_writes_no_more(start, capsys):
    first, own, _ = start()
    told = []
    with first.kept(lambda: told.append(True)):
        start()
        write(own, metrics="1")
        end = time.monotonic() + 10
        while not told and time.monotonic() < end:
            time.sleep(0.1)
        write(own, metrics="1 2")
    assert told == [True] and first.taken and capsys.readouterr().err.count("another process has taken") == 1
    assert not files(start()[1])


def test_what_is_no_storage_is_said_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    for where in (str(tmp_path / "file" / "below"), "nothing://x"):
        with pytest.raises(ValueError, match="--storage: .* is neither a folder"):
            opened(where)
