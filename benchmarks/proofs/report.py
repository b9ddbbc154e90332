"""Writes what was proved into docs/: the numbers as JSON, the table in proof.md, a plot for each proof."""
from __future__ import annotations

import json
from pathlib import Path

from tools.host import ROOT

DOCS = ROOT / "docs"
DATA, PAGE = DOCS / "proof.json", DOCS / "proof.md"
START, END = "<!-- table: written by develop.py prove -->", "<!-- end of table -->"


def write_report(outcomes: list[dict], proofs: dict) -> Path:
    """Puts the outcomes in the place of older ones of the same name, and draws the page anew. Returns the page."""
    known = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    for name in {outcome["name"] for outcome in outcomes}:
        known[name] = sorted((outcome for outcome in outcomes if outcome["name"] == name), key=lambda one: one["seed"])
        plot(proofs[name].title, known[name], DOCS / "images" / f"proof_{name}.svg")
    DATA.write_text(json.dumps(known, indent=1), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(START)
    PAGE.write_text(head + START + "\n" + table(known, proofs) + "\n" + END + rest.split(END)[1], encoding="utf-8")
    return PAGE


def table(known: dict[str, list[dict]], proofs: dict) -> str:
    lines = ["| what | seed | iterations | minutes | strict before | strict after | gain in points | dense | KL | diversity | "
             "images seen | evaluations | goal | |", "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for name, proof in proofs.items():
        lines += [row(f"{proof.title} (`prove {name}`)", run) for run in known.get(name, [])]
    plots = [f"![{proofs[name].title}](images/proof_{name}.svg)" for name in proofs if name in known]
    return "\n".join(lines + [""] + plots)


def row(title: str, run: dict) -> str:
    (before, e0), (after, e1), (gain, e2) = run["before"]["strict"], run["after"]["strict"], run["gain"]["strict"]
    cells = [title, run["seed"], run["iterations"], run["minutes"], f"{before:.1%} ± {e0:.1%}", f"{after:.1%} ± {e1:.1%}",
             f"{100 * gain:+.1f} ± {100 * e2:.1f}",
             f"{run['before']['dense'][0]:.3f} to {run['after']['dense'][0]:.3f}",
             "–" if run["kl"] is None else f"{run['kl']:.1e}", "{:.3f} to {:.3f}".format(*run["diversity"]),
             f"{run['seen']:,}", f"{run['evaluations'] / 1e6:.2f} M", run["goal"],
             "reached" if run["reached"] else "**not reached**"]
    return f"| {' | '.join(map(str, cells))} |"


def plot(title: str, runs: list[dict], path: Path) -> None:
    """The reward on training prompts, and the held-out pass rate at both ends, of each seed."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "posttrain"  # the same numbers give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for run in runs:
        line, = axes.plot(range(1, len(run["rewards"]) + 1), run["rewards"], linewidth=1, alpha=0.6,
                          label=f"reward on training prompts, seed {run['seed']}")
        ends = [run["before"]["strict"], run["after"]["strict"]]
        axes.errorbar([0, run["iterations"]], [mean for mean, _ in ends], [error for _, error in ends], fmt="o",
                      color=line.get_color(), capsize=3, label=f"held-out pass rate, seed {run['seed']}")
    axes.set(title=title, xlabel="iteration", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
