from __future__ import annotations

import pytest
from posttrain.tests.host.headless_runs import Headless
from posttrain.tests.ray.runs import small


@pytest.fixture(scope="session", autouse=True)
def every_line():
    """Ray leaves out lines that several processes write, and has its processes wait for all others of the machine, unless told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_DEDUP_LOGS", "0")
        patch.setenv("RAY_COLOR_PREFIX", "0")
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Headless:
    """A run of three iterations in one process, without Ray."""
    made = Headless(tmp_path_factory.mktemp("alone"))
    assert made.run(small()) == 0, made.text()[-3000:]
    return made


@pytest.fixture
def shared(tmp_path) -> Headless:
    return Headless(tmp_path)
