"""What a run came to, read from its folder: held-out before and after, rewards, diversity, distances, blind comparisons.

report.md in the run's folder is the same in words. Differences are called certain where the 95 % interval leaves none out.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...rewards.base.files import read_bytes, written_whole
from ...rewards.person.agreement import Z95
from ...trainers.data.blind import BETTER, OPEN, WORSE, beyond, verdict, win_share
from ...trainers.data.vote_book import append_line, read_records
from ...trainers.run import gate
from ...trainers.run.aside import read_config
from ...trainers.run.held_out import BASE, ERROR, FILE, GAIN, MEAN
from ...trainers.run.journal import read_entries
from ...trainers.run.metrics import read_metrics

REPORT, BLIND = "report.md", "blind.jsonl"
WINDOW = 5  # iterations that a mean at the beginning or at the end is over
REWARD, PART, VARIETY = "reward_mean", "reward/", "picture_variety"
DISTANCES = ("held_out_fid", "held_out_kid", "held_out_cmmd")
VERDICTS = {
    BETTER: "better, and not by chance",
    WORSE: "worse, and not by chance",
    OPEN: "no difference that chance could not make",
}


def report_of(folder: Path) -> dict:
    """{run, status, iteration, rewards: [{name, before, after}], held_out or None: {before, after, gain, low, high, images,
    iteration, verdict, best: {iteration, mean} or None}, diversity or None: {before, after}, distances: [{name, before, after}],
    blind: [as ``note_blind`` keeps them, with share, low, high, verdict], gate: the newest answer of Blind Comparison or None:
    {iteration, pairs, share, low, high, verdict}, warnings: how many}"""
    config, points = read_config(folder) or {}, read_metrics(folder / "metrics.jsonl")
    parts = sorted({name for point in (points[:1] + points[-1:]) for name in point if name.startswith(PART)})
    diversity = _ends(points, VARIETY)
    measured = [point for point in points if _number(point.get(MEAN)) is not None]
    distances = [found for name in DISTANCES if (found := _ends(measured, name, 1))]
    return {
        "run": folder.name,
        "status": config.get("status") or "unknown",
        "iteration": points[-1]["iteration"] if points else 0,
        "rewards": [found for name in (REWARD, *parts) if (found := _ends(points, name))],
        "held_out": _held_out(folder, measured[-1]) if measured else None,
        "diversity": diversity and {"before": diversity["before"], "after": diversity["after"]},
        "distances": distances,
        "blind": [_judged(each) for each in comparisons(folder)],
        "gate": _gate(points),
        "warnings": sum(entry.get("level") == "warning" for entry in read_entries(folder)),
    }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _ends(points: Iterable[dict], name: str, window: int = WINDOW) -> dict | None:
    """Means of the first and of the last few values of a number; fewer where they would overlap. None without two values."""
    values = [value for point in points if (value := _number(point.get(name))) is not None]
    count = min(window, len(values) // 2)
    if not count:
        return None
    return {"name": name, "before": sum(values[:count]) / count, "after": sum(values[-count:]) / count}


def _held_out(folder: Path, point: dict) -> dict:
    try:
        state = json.loads(read_bytes(folder / FILE))
        best, images = state.get("best"), len(state["base"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        best, images = None, None
    gain, error = _number(point.get(GAIN)), _number(point.get(ERROR))
    found = {"before": _number(point.get(BASE)), "after": _number(point.get(MEAN)), "gain": gain, "low": None, "high": None,
             "images": images, "iteration": point["iteration"], "best": best if isinstance(best, dict) else None,
             "verdict": OPEN}  # fmt: skip
    if gain is None or error is None:
        return found
    low, high = gain - Z95 * error, gain + Z95 * error
    return found | {"low": low, "high": high, "verdict": beyond(low, high, 0.0)}


def _gate(points: Sequence[dict]) -> dict | None:
    names = {"share": gate.SHARE, "low": gate.LOW, "high": gate.HIGH, "pairs": gate.PAIRS}
    for point in reversed(points):
        found = {key: value for key, name in names.items() if (value := _number(point.get(name))) is not None}
        if len(found) == len(names):
            judged = beyond(found["low"], found["high"], gate.EVEN)
            return found | {"iteration": point["iteration"], "pairs": int(found["pairs"]), "verdict": judged}
    return None


def note_blind(folder: Path, iteration: int, against: dict, wins: int, losses: int, ties: int) -> None:
    """Keeps the result of a blind comparison. against: {"run", "iteration"}; iteration 0 is the model before
    training. A later result of the same comparison counts instead. Raises OSError."""
    record = {"iteration": iteration, "against": against, "wins": wins, "losses": losses, "ties": ties,
              "time": round(time.time(), 3)}  # fmt: skip
    append_line(folder / BLIND, record, read_records(folder / BLIND)[1])


def comparisons(folder: Path) -> list[dict]:
    """The newest of each blind comparison, in the order in which they were first made."""
    found = {}
    for record in read_records(folder / BLIND)[0]:
        try:
            against = {"run": str(record["against"]["run"]), "iteration": int(record["against"]["iteration"])}
            counts = {key: max(0, int(record[key])) for key in ("iteration", "wins", "losses", "ties")}
        except (KeyError, TypeError, ValueError, OverflowError):
            continue  # written by hand
        found[counts["iteration"], against["run"], against["iteration"]] = counts | {"against": against}
    return list(found.values())


def _judged(record: dict) -> dict:
    counts = record["wins"], record["losses"], record["ties"]
    return record | win_share(*counts)._asdict() | {"verdict": verdict(*counts)}


def write_report(folder: Path) -> None:
    """report.md, as words. Raises OSError."""
    with written_whole(folder / REPORT) as beside:
        beside.write_text(as_text(report_of(folder)), encoding="utf-8")


def leave_report(folder: Path) -> None:
    """At the end of a training, which a disk that does not take it must not cost."""
    try:
        write_report(folder)
    except OSError as error:
        logging.warning("PostTrain: %s: its report could not be written (%s)", folder.name, error)


def as_text(report: dict) -> str:
    lines = [f"# {report['run']}", "", f"{report['iteration']} iterations, {report['status']}."]
    if report["warnings"]:
        lines += ["", f"Warnings while it trained: {report['warnings']}. They are in history.jsonl and in the page."]
    if (found := report["held_out"]) is not None:
        lines += ["", "## Held-out prompts", "", *_held_out_lines(found)]
    for title, rows in (
        ("Rewards that were trained on", report["rewards"]),
        ("Variety of the pictures", [{"name": VARIETY, **report["diversity"]}] if report["diversity"] else []),
        ("Distances on held-out prompts", report["distances"]),
    ):
        if rows:
            lines += ["", f"## {title}", "", "| number | at the beginning | at the end |", "|---|---|---|"]
            lines += [f"| {row['name']} | {row['before']:.4g} | {row['after']:.4g} |" for row in rows]
    if report["gate"] or report["blind"]:
        judged = [f"- {gate_words(report['gate'])}"] if report["gate"] else []
        lines += ["", "## Compared blind", "", *judged, *(f"- {blind_words(each)}" for each in report["blind"])]
    return "\n".join(lines) + "\n"


def _held_out_lines(found: dict) -> list[str]:
    def said(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.4g}"

    images = f" ({found['images']} images)" if found["images"] else ""
    lines = [
        f"Before training {said(found['before'])}, after iteration {found['iteration']} {said(found['after'])}{images}: gain "
        f"{said(found['gain'])}, 95 % interval {said(found['low'])} to {said(found['high'])}. "
        f"{VERDICTS[found['verdict']].capitalize()}."
    ]
    if found["best"]:
        lines.append(f"Best: {said(_number(found['best'].get('mean')))}, in iteration {found['best'].get('iteration')}.")
    return lines


def blind_words(found: dict) -> str:
    """A blind comparison in a sentence or two."""
    other = found["against"]
    named = f"'{other['run']}', iteration {other['iteration']}" if other["iteration"] else "before training"
    return (
        f"Iteration {found['iteration']} against {named}: preferred in {found['wins']}, not in {found['losses']}, "
        f"{found['ties']} ties; share {found['share']:.0%}, {_certainty(found)}"
    )


def gate_words(found: dict) -> str:
    """What the node Blind Comparison answered last, in a sentence or two."""
    return (
        f"By the node Blind Comparison, iteration {found['iteration']}: preferred in {found['share']:.0%} of {found['pairs']} "
        f"pairs, {_certainty(found)}"
    )


def _certainty(found: dict) -> str:
    return f"95 % interval {found['low']:.0%} to {found['high']:.0%}. {VERDICTS[found['verdict']].capitalize()}."
