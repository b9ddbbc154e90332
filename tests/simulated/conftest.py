"""The simulated GPU's tests: each runs in a process that has the device and the host's flags of its ``card`` mark."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit" / "trainers" / "policy")]

from worker import ADDRESS, FLAGS, Worker, flags_of, serve  # noqa: E402

HAS_CARD = ADDRESS in os.environ


def pytest_configure(config: pytest.Config) -> None:
    config.simulated_workers = {}


if HAS_CARD:
    from simulated_card import host
    given = os.environ[FLAGS].split()
    host.start(*(flag for flag in given if flag.startswith("--")), mac="mac" in given, streams="dynamic" in given)

    def pytest_runtestloop(session: pytest.Session) -> bool:
        serve(session)
        return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem) -> bool | None:
    workers, flags = item.config.simulated_workers, flags_of(item)
    if HAS_CARD or HERE not in item.path.parents or "none" in flags:
        return None
    if flags not in workers or not workers[flags].alive:
        workers[flags] = Worker(flags, item.config)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in workers[flags].run(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # what a test before it, run in this process, has left set up for others of its file
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    for worker in getattr(session.config, "simulated_workers", {}).values():
        worker.stop()
