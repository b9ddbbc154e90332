"""Writes what was measured into docs/bench.md, and what the recorded proofs have cost beside it."""

from __future__ import annotations

import json

from tools.host import ROOT

from .costs import Measure
from .pages import between, put_between

PAGE, PROOFS = ROOT / "docs" / "bench.md", ROOT / "docs" / "proof.json"
START, END = "<!-- tables: written by develop.py bench --write -->", "<!-- end of tables -->"
GOAL = 0.9  # of the held-out images are right


def write_report(measures: dict[str, list[Measure]]) -> None:
    """measures: by benchmark, in the order of the page; benchmarks that were not run keep what the page says of them."""
    tables = {part.split("\n", 1)[0]: part.split("\n", 1)[1].strip() for part in between(PAGE, START, END).split("\n### ")[1:]}
    tables |= {name: table(found) for name, found in measures.items()} | {"proofs": proofs()}
    text = "".join(f"\n### {name}\n\n{rows}\n" for name, rows in sorted(tables.items()))
    put_between(PAGE, START, END, text)


def table(measures: list[Measure]) -> str:
    lines = ["| what | measured | at most | |", "|---|---|---|---|"]
    for each in measures:
        limit = "" if each.limit is None else f"{each.limit:g}"
        lines.append(f"| {each.name} | {each.value:.3g} {each.unit} | {limit} | {each.detail} |")
    return "\n".join(lines)


def proofs() -> str:
    """Which claims of docs/proof.md end with enough held-out images right, and after how many evaluations."""
    found = []
    for name, runs in json.loads(PROOFS.read_text(encoding="utf-8")).items():
        ends = [run["after"]["strict"][0] for run in runs]
        if sum(ends) / len(ends) >= GOAL:
            counts = [run["evaluations"] for run in runs]
            found.append(
                (
                    sum(counts) / len(counts),
                    f"| `{name}` | {' / '.join(f'{end:.1%}' for end in ends)} | "
                    f"{sum(counts) / len(counts) / 1e6:.2f} M | {sum(run['seen'] for run in runs) / len(runs):,.0f} |",
                )
            )
    lines = [
        f"Claims whose runs end with {GOAL:.0%} of the held-out images right or more, the cheapest first.",
        "",
        "| claim | right at the end | evaluations | images |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *(line for _, line in sorted(found))])
