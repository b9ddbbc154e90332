"""Writes what was proved into docs/: the numbers as JSON, the table in proof.md, a plot for each proof."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

from tools.host import ROOT

from ..pages import put_between

DOCS = ROOT / "docs"
DATA, PAGE = DOCS / "proof.json", DOCS / "proof.md"
START, END = "<!-- table: written by develop.py prove -->", "<!-- end of table -->"


def known_outcomes() -> dict[str, list[dict]]:
    """The runs that the page reports, by claim."""
    return json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}


def write_report(outcomes: list[dict], proofs: dict) -> Path:
    """Puts the outcomes in the place of older ones of the same seed or of another recipe, and draws the page anew.
    Returns the page."""
    known = known_outcomes()
    for name in {outcome["name"] for outcome in outcomes}:
        new = {outcome["seed"]: outcome for outcome in outcomes if outcome["name"] == name}
        recipes = {outcome["recipe"] for outcome in new.values()}
        kept = [outcome for outcome in known.get(name, ()) if outcome["recipe"] in recipes]
        merged = {outcome["seed"]: outcome for outcome in kept} | new
        known[name] = [merged[seed] for seed in sorted(merged)]
        plot(proofs[name].title, known[name], DOCS / "images" / f"proof_{name}.svg")
    DATA.write_text(json.dumps(known, indent=1), encoding="utf-8")
    put_between(PAGE, START, END, table(known, proofs))
    return PAGE


def table(known: dict[str, list[dict]], proofs: dict) -> str:
    lines = ["| what | strict before | strict after | gain in points | reward it learned from | KL | diversity | images | "
             "evaluations | minutes | goal |", "|" + "---|" * 11]
    lines += [row(f"{proof.title} (`{name}`)", known[name]) for name, proof in proofs.items() if name in known]
    plots = [f"![{proofs[name].title}](images/proof_{name}.svg)" for name in proofs if name in known]
    return "\n".join(lines + [""] + plots)


def row(title: str, runs: list[dict]) -> str:
    """A claim with the numbers of its seeds side by side; what all seeds share is said once."""
    def each(text: Callable[[dict], str]) -> str:
        found = [text(run) for run in runs]
        return found[0] if len(set(found)) == 1 else " / ".join(found)

    cells = [title, each(lambda run: f"{run['before']['strict'][0]:.1%}"), each(lambda run: f"{run['after']['strict'][0]:.1%}"),
             each(lambda run: "{:+.1f} ± {:.1f}".format(*(100 * part for part in run["gain"]["strict"]))), each(learned_from),
             each(lambda run: f"{run['kl']:.0e}"),
             each(lambda run: "{:.2f} to {:.2f}".format(*run["diversity"])), each(lambda run: f"{run['seen']:,}"),
             each(lambda run: f"{run['evaluations'] / 1e6:.2f} M"), each(lambda run: f"{run['minutes']:.0f}"),
             f"{runs[0]['goal']}: {each(lambda run: 'reached' if run['reached'] else '**not reached**')}"]
    if runs[0].get("kept") is not None:
        cells[-1] += f"; {each(lambda run: format(run['kept'], '.0%'))} of the teacher's gain kept"
    for skill in runs[0].get("skills") or ():
        told = each(lambda run: "{2:.1%} ({1:.1%} with its own LoRA, {0:.1%} before)".format(*run["skills"][skill]))
        cells[-1] += f"; {skill} right: {told}"
    return f"| {' | '.join(cells)} |"


def learned_from(run: dict) -> str:
    """Before, after and gain of the trained reward on held-out prompts; the verifier's mixed score is near the dense."""
    score = "own" if "own" in run["before"] else "dense"
    gain, error = run["gain"][score]
    return f"{run['before'][score][0]:.3g} to {run['after'][score][0]:.3g} ({gain:+.2g} ± {error:.1g})"


def plot(title: str, runs: list[dict], path: Path) -> None:
    """The reward on training prompts, and what it was measured by on held-out ones at both ends, of each seed."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "posttrain"  # the same numbers give the same file
    from matplotlib import pyplot

    own = "own" in runs[0]["before"]
    measures = [("own", "held-out reward", "o")] if own else [
        ("strict", "held-out pass rate", "o"), ("dense", "held-out partial credit", "s")]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for run in runs:
        line, = axes.plot(range(1, len(run["rewards"]) + 1), run["rewards"], linewidth=1, alpha=0.6,
                          label=f"reward on training prompts, seed {run['seed']}")
        for score, words, mark in measures:
            ends = [run["before"][score], run["after"][score]]
            axes.errorbar([0, run["iterations"]], [mean for mean, _ in ends], [error for _, error in ends], fmt=mark,
                          color=line.get_color(), capsize=3, mfc="white" if score == "dense" else None,
                          label=f"{words}, seed {run['seed']}")
    axes.set(title=title, xlabel="iteration", ylim=None if own else (0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    pyplot.close(figure)
