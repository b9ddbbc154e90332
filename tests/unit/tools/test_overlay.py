"""Every reward with transformers 4.57 too: the environment has a release of 5, and users have either."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from posttrain.tools import overlay
from posttrain.tools.environment import SetupError

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_IT = "not 8k and not ocr and not adversarial"  # the slow ones that no release of transformers has a part in
COMMAND = (sys.executable, "develop.py", "test", "--transformers", "4.57", "-q", "-s", "-k", WITHOUT_IT,
           "tests/unit/rewards", "tests/unit/nodes/rewards", "tests/unit/tools/test_overlay.py::test_the_release_is_one_of_the_two")


def test_the_release_is_one_of_the_two():
    import huggingface_hub
    import tokenizers
    import transformers

    print("release", transformers.__version__, tokenizers.__version__, huggingface_hub.__version__)
    assert transformers.__version__.startswith(("4.57.", "5."))


def test_the_lower_bounds_are_pins_of_every_optional_package():
    pins, asked = overlay.lower_bounds(), overlay.optional_packages()
    assert len(pins) == len(asked) >= 6 and all(re.fullmatch(r"[a-z-]+(\[[a-z]+\])?==\d+(\.\d+)*", pin) for pin in pins)
    assert [pin.split("==") for pin in pins] == [each.split(">=") for each in asked]
    assert {name.split("==")[0] for name in overlay.BESIDE_LOWEST}.isdisjoint(pin.split("==")[0] for pin in pins)


def test_an_unknown_release_of_them_is_refused():
    with pytest.raises(SetupError, match="--libraries: oldest .* only lowest and newest"):
        overlay.libraries(SimpleNamespace(), "oldest")


def test_the_workflow_runs_what_there_is():
    words = (ROOT / ".github" / "workflows" / "libraries.yml").read_text(encoding="utf-8").split()
    paths = [word for word in words if word.startswith("tests/")]
    assert len(paths) >= 5 and all((ROOT / path).exists() for path in paths)
    assert f"[{overlay.LOWEST}, {overlay.NEWEST}]" in " ".join(words)


def test_all_rewards_work_with_the_older_one():
    run = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert re.search(r"release 4\.57\.\d+ 0\.22\.\d+ 0\.\d+", run.stdout)
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 500
