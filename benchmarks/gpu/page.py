"""docs/gpu.md, written from what was measured and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .iteration import GUIDANCE, IMAGES, PROMPTS, RANDOM, RANK, STEPS, Row
from .measure import Part

GB = 2**30
NOT_YET = "No measurement on a card has been made yet."
HEAD = f"""# On a card

What only a graphics card can show. `python develop.py gpu` measures it within ten minutes and writes this page. A machine without
network needs torch and transformers, and a folder that is made on one with network: `python develop.py gpu --pack FOLDER` there,
`python develop.py gpu --from FOLDER` here.

Weights are random and bfloat16, texts are noise: time and memory do not depend on them. An iteration: {PROMPTS} prompts, {IMAGES}
images of each in one batch, {STEPS} steps of which {RANDOM} is trained on, guidance {GUIDANCE:g} (1 for LCM, ADD and DiffusionOPD),
a LoRA of rank {RANK}, one noise level.
"""


@dataclass(frozen=True)
class Card:
    """The machine, in its own words; memory: bytes."""

    name: str
    memory: int
    driver: str
    torch: str
    host: str


@dataclass(frozen=True)
class Outcome:
    """A test marked gpu. result: passed, failed or skipped; words: what it measured, and why it did not pass."""

    name: str
    result: str
    seconds: float
    words: str = ""


def page(card: Card | None, tests: Sequence[Outcome], parts: Sequence[Part]) -> str:
    """Without a card: the page that says so."""
    if card is None:
        return f"{HEAD}\n{NOT_YET}\n"
    said = (f"Measured on {card.name} ({card.memory / GB:.0f} GB), driver {card.driver}, torch {card.torch}, "
            f"ComfyUI {card.host}.")  # fmt: skip
    return "\n".join([HEAD, said, "", *_tests(tests), *(line for part in parts for line in _part(part))]).rstrip() + "\n"


def write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _tests(tests: Sequence[Outcome]) -> list[str]:
    if not tests:
        return ["## Tests", "", "Left out: there was no time for them.", ""]
    rows = [f"| {each.name} | {each.result} | {each.seconds:.1f} s | {_cell(each.words)} |" for each in tests]
    return ["## Tests", "", "| test | | took | |", "|---|---|---|---|", *rows, ""]


def _part(part: Part) -> list[str]:
    lines = [f"## {part.size.name}, {part.size.pixels} px", ""]
    if part.bare is not None:
        lines += [f"The bare network, {part.bare.images} images at once: {1000 * part.bare.forward:.1f} ms for an evaluation of "
                  f"one image, {1000 * part.bare.both:.1f} ms with its backward. Low memory is "
                  f"{'on' if part.low_memory else 'off'}.", ""]  # fmt: skip
    if part.rows:
        lines += ["GB: the most on the card in a train step, foretold by Estimate Memory and Time and measured. Rollout and update: "
                  "their time in that of as many evaluations of the bare network; trainers through the reward decode within their "
                  "step, so they have seconds only.", "",
                  "| trainer | GB foretold | GB | off by | sampling | train step | rollout | update | |",
                  "|---|---|---|---|---|---|---|---|---|", *map(_row, part.rows), ""]  # fmt: skip
    if part.profile:
        shown = [f"| {_cell(name)} | {calls:,} | {ms:,.1f} ms | {share:.0%} |" for name, calls, ms, share in part.profile]
        lines += [f"Where the time of a {part.rows[0].trainer} update goes, the longest first.", "",
                  "| operator | calls | takes | of all |", "|---|---|---|---|", *shown, ""]  # fmt: skip
    if part.words:
        lines += [f"It failed: {_cell(part.words)}", ""]
    if part.left_out:
        lines += [f"Left out, for there was no time: {', '.join(part.left_out)}.", ""]
    return lines


def _row(row: Row) -> str:
    off = f"{row.foretold / row.bytes - 1:+.0%}" if row.foretold and row.bytes else ""
    cells = [row.trainer, _number(row.foretold, 1 / GB, 2), _number(row.bytes, 1 / GB, 2), off, _number(row.sampling, 1, 2, " s"),
             _number(row.training, 1, 2, " s"), _number(row.rollout, 1, 2, "x"), _number(row.update, 1, 2, "x"),
             _cell(row.words)]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, times: float, digits: int, unit: str = "") -> str:
    return "" if value is None else f"{value * times:.{digits}f}{unit}"


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")[:200]
