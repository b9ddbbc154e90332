"""Every reward with transformers 4.57 too: the environment has a release of 5, and users have either."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_IT = "not 8k and not ocr and not adversarial"  # the slow ones that no release of transformers has a part in
COMMAND = (sys.executable, "develop.py", "test", "--transformers", "4.57", "-q", "-s", "-k", WITHOUT_IT,
           "tests/unit/rewards", "tests/unit/tools/test_overlay.py::test_the_release_is_one_of_the_two")


def test_the_release_is_one_of_the_two():
    import huggingface_hub
    import tokenizers
    import transformers

    print("release", transformers.__version__, tokenizers.__version__, huggingface_hub.__version__)
    assert transformers.__version__.startswith(("4.57.", "5."))


def test_all_rewards_work_with_the_older_one():
    run = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert re.search(r"release 4\.57\.\d+ 0\.22\.\d+ 0\.\d+", run.stdout)
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 500
