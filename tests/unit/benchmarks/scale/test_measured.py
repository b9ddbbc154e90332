"""What two processes receive in an iteration, as the kernel counts it, beside what is reckoned."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from posttrain.tools.host import ROOT

MEASURED = (
    "import json; from benchmarks.scale import measured, models; from benchmarks.scale.arithmetic import shared\n"
    "if __name__ == '__main__':\n"
    "    received, job = measured.received_and_job()\n"
    "    print(json.dumps([received, shared(job, models.H100, 2).received]))\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counters are Linux's")
def test_what_is_reckoned_is_what_comes_over_the_wire(tmp_path):
    """A little more comes: scores, losses, and the words with which processes meet."""
    file = tmp_path / "measured.py"  # processes are spawned from a file
    file.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{MEASURED}")
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    received, reckoned = json.loads(done.stdout.splitlines()[-1])
    assert len(received) == 2 and all(reckoned <= each < 1.03 * reckoned for each in received), (received, reckoned)
