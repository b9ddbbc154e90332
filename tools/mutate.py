"""Changes one sign, comparison, order or constant at a time, and lists the changes that no test notices.

    python develop.py mutate trainers/losses [more files or folders] [--tests PATH ...] [--limit N] [--seconds N] [--anew]

The tests are collected once, in one process, and run once to see which lines each reaches. Each change runs in a fork of
that process, which gets the changed functions and runs only the tests that reach the line, quick ones first, until one
fails. No file is ever written but the results, in the cache folder: what was noticed stays so while the module and the test
that noticed it stay as they are. A change that takes much longer than its tests do counts as noticed. tools/mutants.txt
lists changes that alter no result, with the reason; an entry that fits no change any more is reported.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from .mutants_in_place import Changed, Module
from .mutants_known import KNOWN, ROOT, Results, known, stale
from .mutations import Mutant, mutants

ALONE = ["-x", "-q", "-s", "--tb=no", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={ROOT}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="develop.py mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=["trainers/losses"], help="files or folders of the pack")
    parser.add_argument("--tests", nargs="+", help="test files or folders, instead of tests/unit's folder of the same name")
    parser.add_argument("--limit", type=int, help="try at most this many changes of each file")
    parser.add_argument("--seconds", type=float, default=60, help="of tests that a change has to live through (60)")
    parser.add_argument("--anew", action="store_true", help="try what was noticed before again, too")
    chosen = parser.parse_args()
    os.environ |= {"CI": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != ROOT]
    files = [
        file.resolve()
        for path in chosen.paths
        for file in ([Path(path)] if path.endswith(".py") else sorted(Path(path).rglob("*.py")))
        if file.name != "__init__.py"
    ]
    tests = chosen.tests or sorted({str(ROOT / "tests" / "unit" / file.relative_to(ROOT).parts[0]) for file in files})
    survey = Survey(files, chosen.limit, chosen.seconds, Results(chosen.anew))
    import pytest

    code = pytest.main([*ALONE, *map(os.path.abspath, tests)], plugins=[survey])
    return int(code) or int(survey.left > 0)


class Survey:
    """A pytest plugin that changes the modules of ``files`` instead of running the tests once."""

    def __init__(self, files: list[Path], limit: int | None, seconds: float, results: Results):
        self.files, self.limit, self.seconds, self.results, self.left = files, limit, seconds, results, 0
        self.lately: list[str] = []  # tests that noticed something, the last one first: they may notice its neighbours, too

    def pytest_runtestloop(self, session) -> bool:
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} test files cannot be read")
        for file in self.files:  # all of them before any fork, so that none reads one anew
            importlib.import_module(module(file))
        reach = self.reach(session)
        gc.collect()
        gc.freeze()  # a fork copies only what it touches
        for file in self.files:
            self.left += self.examined(file, session, reach)
        self.left += stale(KNOWN, self.files)
        return True

    def reach(self, session) -> dict[str, list]:
        """{test: [seconds, {file: lines}]} of all that pass, each test file in a fork of its own."""
        found: dict[str, list] = {}
        for test in sorted({item.path for item in session.items}):
            items = [item for item in session.items if item.path == test]
            found |= self.results.reach(test, lambda items=items: forked(lambda: traced(session, items), 3600) or {})
        if missing := [item.nodeid for item in session.items if item.nodeid not in found]:
            print(
                f"{len(missing)} tests fail before anything is changed and are left out: {', '.join(missing[:9])}", flush=True
            )
        return found

    def examined(self, file: Path, session, reach: dict[str, list]) -> int:
        """Prints the survivors of a file and gives their number."""
        name = file.relative_to(ROOT).as_posix()
        every, same = list(mutants(file.read_text(encoding="utf-8"), str(file))), known(KNOWN)
        tried = [mutant for mutant in every if (name, mutant.function, mutant.change) not in same][: self.limit]
        now, begun, left = Module(file), time.monotonic(), 0
        for mutant in tried:
            tests = self.chosen(mutant, name, session.items, reach)
            if not self.noticed(file, now, mutant, session, tests, sum(reach[item.nodeid][0] for item in tests)):
                left += 1
                unseen = "" if tests else "  (no test reaches it)"
                print(f"  {name}:{mutant.line} | {mutant.function} | {mutant.change}{unseen}", flush=True)
        print(
            f"{name}: {len(every)} changes, {len(every) - len(tried)} left out, {len(tried) - left} noticed, {left} noticed by "
            f"no test; {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        return left

    def noticed(self, file: Path, now: Module, mutant: Mutant, session, tests: list, seconds: float) -> bool:
        if self.results.noticed_by(file, mutant):
            return True
        if not tests:
            return False

        def tried() -> str | None:
            if now.becomes(mutant.code):
                return first_failure(session, tests)
            return tests[0].nodeid if read_anew(Changed(module(file), file, mutant.code), tests) else None

        failed = forked(tried, 30 + 5 * seconds, tests[0].nodeid)
        if failed:
            self.results.keep(file, mutant, failed)
            self.lately = [failed, *(test for test in self.lately if test != failed)][:3]
        return bool(failed)

    def chosen(self, mutant: Mutant, name: str, items: list, reach: dict[str, list]) -> list:
        """The tests that reach the change, the likely and the quick ones first, as many as the seconds allow (at least one)."""
        first, last = mutant.span
        lines = range(first, last + 1)
        passed = [(item, *reach[item.nodeid]) for item in items if item.nodeid in reach]
        readers = {item.path for item, _, files in passed if name in files}
        near = []
        for item, seconds, files in passed:
            # what a module does while it is read is seen by all tests beside those that run it, even by one that runs none of it
            if any(line in lines for line in files.get(name, ())) if mutant.function else item.path in readers:
                near.append((item.nodeid not in self.lately, seconds, item))
        kept, total = [], 0.0
        for _, seconds, item in sorted(near, key=lambda row: row[:2]):
            total += seconds
            if kept and total > self.seconds:
                break
            kept.append(item)
        return kept


def module(file: Path) -> str:
    return ".".join(["posttrain", *file.relative_to(ROOT).with_suffix("").parts])


def forked(work: Callable[[], object], seconds: float, lost: object = None):
    """What ``work`` gives in a fork of this process; ``lost`` if that dies or takes longer."""
    answer = Path(tempfile.mkstemp(prefix="mutant-")[1])
    child = os.fork()
    if not child:
        os.setsid()  # with what it starts it can be ended at once
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        try:
            answer.write_text(json.dumps([work()]))
        finally:
            os._exit(0)
    try:
        ended = waited(child, seconds)
        return json.loads(answer.read_text())[0] if ended and answer.stat().st_size else lost
    finally:
        if not locals().get("ended"):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        answer.unlink()


def waited(child: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.005)
    return False


def first_failure(session, items: list) -> str | None:
    for item, after in zip(items, [*items[1:], None]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if session.testsfailed:
            return item.nodeid
    return None


def read_anew(changed: Changed, items: list) -> bool:
    """Whether a test fails when the pack and the tests are read once more; for what a module does while it is read."""
    import pytest

    for name in [name for name in sys.modules if name.split(".")[0] in ("posttrain", "tests") and name != "posttrain"]:
        del sys.modules[name]
    sys.meta_path.insert(0, changed)
    return pytest.main([*ALONE, *(str(ROOT / item.nodeid) for item in items)]) != 0


def traced(session, items: list) -> dict[str, list]:
    """{test: [seconds, {file of the pack: lines it runs}]} of those that pass."""
    found = {}
    for item, after in zip(items, [*items[1:], None]):
        lines: dict[str, set[int]] = {}
        begun, failed = time.monotonic(), session.testsfailed
        sys.settrace(tracer(lines))
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        finally:
            sys.settrace(None)
        if session.testsfailed == failed:
            found[item.nodeid] = [time.monotonic() - begun, {file: sorted(ran) for file, ran in lines.items()}]
    return found


def tracer(lines: dict[str, set[int]]):
    @cache
    def ours(file: str) -> str | None:
        path = Path(file)
        inside = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] not in ("tests", "tools")
        return path.relative_to(ROOT).as_posix() if inside else None

    def called(frame, event, _):
        if not (name := ours(frame.f_code.co_filename)):
            return None
        ran = lines.setdefault(name, set())

        def inside(frame, event, _):
            ran.add(frame.f_lineno)
            return inside

        return inside

    return called


if __name__ == "__main__":
    sys.exit(main())
