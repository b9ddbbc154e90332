"""develop.py gpu, inside the Python that computes: the tests, then each model, while there is time; docs/gpu.md after every piece."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .measure import Clock, Part, measure, release, trainers
from .models import REAL, Size
from .page import GB, Card, Outcome, page, write
from .start import ROOT, start

PAGE = ROOT / "docs" / "gpu.md"
NO_CARD = "No NVIDIA card is to be had here: {}; nothing was measured, and docs/gpu.md stays as it is."
SMALL_CARD = 60 * GB  # below, activations are recomputed from the start
TESTS = 0.3  # of the time, at most


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="develop.py gpu")
    parser.add_argument("--minutes", type=float, required=True)
    clock = Clock.of(60 * parser.parse_args(arguments).minutes)
    if not torch.cuda.is_available():
        print(NO_CARD.format(f"this torch ({torch.__version__}) finds none"), file=sys.stderr)
        return 1
    outcomes = tests(clock.part(TESTS))
    start()
    logging.disable(logging.WARNING)  # the host's words about files that nobody has loaded
    return everything(REAL, torch.bfloat16, clock, PAGE, outcomes)


def everything(sizes: Sequence[Size], dtype: torch.dtype, clock: Clock, place: Path, outcomes: Sequence[Outcome],
               kinds: Sequence[type] | None = None, say: Callable[[str], None] | None = None) -> int:  # fmt: skip
    """Measures every size, each in its share of the time, and writes the page to ``place``; 1 where something failed."""
    card, say = the_card(), say or (lambda words: print(words, flush=True))
    parts = [Part(size, card.memory < SMALL_CARD) for size in sizes]
    chosen = list(trainers() if kinds is None else kinds)

    def seen(words: str) -> None:
        say(f"{words}; {clock.left():.0f} s are left")
        write(place, page(card, outcomes, parts))

    for number, part in enumerate(parts):
        try:
            measure(part, chosen, dtype, clock.part(1 / (len(parts) - number)), seen)
        except Exception as error:  # the other models can still be measured
            part.words = f"{type(error).__name__}: {error}"
            say(f"{part.size.name} failed: {part.words}")
        release()
    write(place, page(card, outcomes, parts))
    return verdict(outcomes, parts, say, place)


def verdict(outcomes: Sequence[Outcome], parts: Sequence[Part], say: Callable[[str], None], place: Path) -> int:
    for part in parts:
        if part.left_out:
            say(f"{part.size.name}: left out, for there was no time: {', '.join(part.left_out)}")
    failed = [each.name for each in outcomes if each.result == "failed"]
    failed += [f"{part.size.name}, {row.trainer}" for part in parts for row in part.rows if row.failed]
    failed += [part.size.name for part in parts if part.words]
    say(f"{place} is written. " + (f"Failed: {'; '.join(failed)}" if failed else "Nothing failed."))
    return 1 if failed else 0


def the_card() -> Card:
    from comfyui_version import __version__ as host

    seen = torch.cuda.get_device_properties(0)
    return Card(seen.name, seen.total_memory, driver(), torch.__version__, host)


def driver() -> str:
    """Its release, as nvidia-smi says it."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown (nvidia-smi does not answer)"


def tests(clock: Clock) -> list[Outcome]:
    """The tests marked gpu, in a process of their own, so that none of their memory stays."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-P", "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        limit = clock.left()
        try:
            subprocess.run(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=limit)
        except subprocess.TimeoutExpired:
            return [Outcome("the tests marked gpu", "failed", limit, "they took too long and were stopped")]
        if not report.exists():
            return [Outcome("the tests marked gpu", "failed", 0.0, "pytest did not start: see its words above")]
        return read(report)


def read(report: Path) -> list[Outcome]:
    """Of pytest's report in JUnit's form."""
    found = []
    for case in xml.parse(report).getroot().iter("testcase"):
        bad = next((case.find(kind) for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
        result = "passed" if bad is None else "skipped" if bad.tag == "skipped" else "failed"
        measured = [each.get("value", "") for each in case.iter("property") if each.get("name") == "measured"]
        words = "; ".join(measured + ([] if bad is None else [bad.get("message", "")]))
        found.append(Outcome(case.get("name", ""), result, float(case.get("time", 0)), words))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
