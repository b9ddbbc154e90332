"""Lint, format and types: ruff and mypy against a baseline that may only shrink.

    python develop.py lint             what is new since the baseline; nothing new is an exit of 0
    python develop.py lint --write     writes the baseline anew (a review should see it only shrink)

tests/lint_baseline.json counts what was there when the checks came in, by tool, file and rule. A file that is not in it has
no error and ruff's own format.
"""
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter

from .environment import ROOT
from .tree import files

BASELINE = ROOT / "tests" / "lint_baseline.json"
TYPED = ("trainers", "rewards")
Counts = dict[str, dict[str, int]]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="develop.py lint", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the baseline anew")
    chosen, counts = parser.parse_args(arguments), found()
    if chosen.write:
        BASELINE.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    new, gone = compared(counts, json.loads(BASELINE.read_text(encoding="utf-8")))
    print("\n".join([*(f"new: {line}" for line in new), *(f"mended, take it out with --write: {line}" for line in gone),
                     f"{sum(sum(errors.values()) for errors in counts.values())} in the baseline, {len(new)} new"]))
    return 1 if new or gone else 0


def found() -> Counts:
    """{"ruff" | "format" | "mypy": {"file rule": count}} of the tree as it is."""
    return {"ruff": ruff(), "format": unformatted(), "mypy": mypy()}


def compared(counts: Counts, baseline: Counts) -> tuple[list[str], list[str]]:
    """(what there is more of than in the baseline, what there is less of)."""
    new, gone = [], []
    for tool in sorted({*counts, *baseline}):
        now, then = counts.get(tool, {}), baseline.get(tool, {})
        for key in sorted({*now, *then}):
            line = f"{tool}: {key}, {now.get(key, 0)} (baseline: {then.get(key, 0)})"
            if now.get(key, 0) > then.get(key, 0):
                new.append(line)
            elif now.get(key, 0) < then.get(key, 0):
                gone.append(line)
    return new, gone


def ruff() -> dict[str, int]:
    answers = json.loads(output("ruff", "check", "--no-cache", "--exit-zero", "--output-format", "json", *sources()))
    return counted(f"{name(each['filename'])} {each['code']}" for each in answers)


def unformatted() -> dict[str, int]:
    found = re.findall(r"^ *--> (.+?):\d+:\d+$", output("ruff", "format", "--no-cache", "--check", *sources()), re.MULTILINE)
    return counted(f"{name(path)} format" for path in set(found))


def mypy() -> dict[str, int]:
    packages = [word for package in TYPED for word in ("-p", package)]
    lines = output("mypy", "--no-color-output", "--no-error-summary", *packages).splitlines()
    errors = [line for line in lines if ": error: " in line]
    return counted(f"{name(line.split(':')[0])} {line.rpartition('[')[2].rstrip(']')}" for line in errors)


def sources() -> list[str]:
    return [file for file in files() if file.endswith(".py")]


def counted(keys) -> dict[str, int]:
    return dict(sorted(Counter(keys).items()))


def name(path: str) -> str:
    """Relative to the root, with slashes."""
    return str(path).replace("\\", "/").removeprefix(f"{ROOT.as_posix()}/")


def output(tool: str, *arguments: str) -> str:
    """What a tool of the environment prints; its complaints about itself end the run."""
    done = subprocess.run([sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        raise RuntimeError(f"{tool} could not run:\n{done.stderr or done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
