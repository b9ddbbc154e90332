"""develop.py bench: runs the benchmarks, each in a process of its own, and holds them to their limits."""
from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from dataclasses import asdict

from tools.host import ROOT

from .costs import Measure
from .report import write_report

NAMES = sorted(path.stem for path in (ROOT / "benchmarks" / "costs").glob("[a-z]*.py"))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="develop.py bench", description="Measures what things cost.")
    parser.add_argument("name", nargs="*", help=f"which of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--write", action="store_true", help="put the numbers into docs/bench.md")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.name) - set(NAMES):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if chosen.in_process:
        measures = importlib.import_module(f"benchmarks.costs.{chosen.name[0]}").measure()
        print(json.dumps([asdict(measure) for measure in measures]))
        return 0
    good, found = [], {}
    for name in chosen.name or NAMES:
        found[name] = in_own_process(name)
        good += [report(measure) for measure in found[name]]
    if chosen.write:
        write_report(found)
    print(f"{sum(good)} of {len(good)} within their limits")
    return 0 if all(good) else 1


def in_own_process(name: str) -> list[Measure]:
    done = subprocess.run([sys.executable, "-m", "benchmarks.bench", name, "--in-process"], cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the benchmark {name} failed:\n{done.stderr[-3000:]}")
    return [Measure(**measure) for measure in json.loads(done.stdout.splitlines()[-1])]


def report(measure: Measure) -> bool:
    """Prints one line; whether the number is within its limit."""
    good = measure.limit is None or measure.value <= measure.limit
    limit = "" if measure.limit is None else f"(at most {measure.limit:g}) "
    print(f"{'ok  ' if good else 'HIGH'} {measure.name}: {measure.value:.3g} {measure.unit} {limit}{measure.detail}",
          flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
