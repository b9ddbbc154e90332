"""What the wired loop costs an iteration, with a body that does next to nothing, and whether memory stays flat."""
from __future__ import annotations

import tempfile
from pathlib import Path

from tools import pack
from tools.host import ROOT, Host

from . import Measure

ITERATIONS = 1000


def measure() -> list[Measure]:
    lab = pack.module("tests.host.lab_graph")
    with tempfile.TemporaryDirectory() as base, Host(Path(base), packs=[ROOT / "tests" / "host" / "lab_pack"]) as host:
        host.run(lab.loop_graph("warm", 20))
        busy = host.status.cpu_times()
        result = host.run(lab.loop_graph("measured", ITERATIONS))
        if result.event != "success":
            raise RuntimeError(result.text)
        after = host.status.cpu_times()
    worked = after.user + after.system - busy.user - busy.system
    return [Measure("wired loop, an iteration", 1000 * worked / ITERATIONS, "ms", 20,
                    f"processor time, body included, {ITERATIONS} iterations; {1000 * result.seconds / ITERATIONS:.1f} ms "
                    "of wall time"),
            Measure("memory that the loop leaves behind", result.rss_after - result.rss_before, "MB", 50,
                    f"peak +{result.rss_peak - result.rss_before:.0f} MB"),
            Measure("messages to the page, an iteration", result.bytes / ITERATIONS / 1000, "kB", 2)]
