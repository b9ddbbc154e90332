"""develop.py scale: writes the tables of many cards into docs/scale.md."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tools.host import ROOT

from ..pages import put_between
from .arithmetic import FLOAT, Card, Job, Row, apart, shared
from .models import H100, MODELS, RTX4090, job_of

PAGE = ROOT / "docs" / "scale.md"
START, END = "<!-- many cards: written by develop.py scale -->", "<!-- end of many cards -->"
CARDS = (1, 8, 64, 256, 1024)
FEW = 0.1  # of an iteration that exchange may take


def main(arguments: list[str]) -> int:
    if arguments:
        print("develop.py scale takes no arguments; it writes docs/scale.md", file=sys.stderr)
        return 2
    put_between(PAGE, START, END, text([job_of(model) for model in MODELS]))
    return 0


def text(jobs: list[Job]) -> str:
    parts = [sizes(jobs)]
    parts += [f"Processes that share sampling and training, on {H100.name}:", table(jobs, H100, shared)]
    parts += [f"One card trains, all others are samplers that wait for it, on {H100.name}:", table(jobs, H100, apart)]
    parts += ["What each way is good for:", limits(jobs, (H100, RTX4090))]
    return "\n" + "\n\n".join(parts) + "\n"


def in_columns(names: str, rows: list[list[str]]) -> str:
    """A table of Markdown. names: of its columns behind the first one, with commas."""
    columns = ["", *names.split(", ")]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def sizes(jobs: list[Job]) -> str:
    names = (
        "LoRA, evaluations of an image to sample and to train, an evaluation, latent, states and latents of an image, picture"
    )
    rows = [
        [
            job.model,
            f"{job.lora / 1e6:.0f} million numbers",
            f"{job.sampling:g} and {job.gradient + job.further:g}",
            f"{job.operations / 1e12:.1f} TFLOP",
            *(amount(count) for count in (FLOAT * job.latent, job.drawn, FLOAT * job.picture)),
        ]
        for job in jobs
    ]
    return in_columns(names, rows)


def table(jobs: list[Job], card: Card, way: Callable[[Job, Card, int], Row]) -> str:
    names = "cards, images, received, sampling, exchange, training, cards wait, card-seconds an image, RAM, bottleneck"
    return in_columns(names, [cells(job, way(job, card, cards), images_of(job, way, cards)) for job in jobs for cards in CARDS])


def cells(job: Job, row: Row, images: int) -> list[str]:
    return [
        job.model,
        f"{row.cards:,}",
        f"{images:,}",
        amount(row.received),
        *(seconds(part) for part in (row.sampling, row.exchange, row.training)),
        f"{row.idle:.1%}",
        number(row.card_seconds(images)),
        amount(row.held),
        row.slowest,
    ]


def images_of(job: Job, way: Callable, cards: int) -> int:
    """Of an iteration."""
    return job.images * (cards if way is shared else max(cards - 1, 1))


def limits(jobs: list[Job], cards: tuple[Card, ...]) -> str:
    names = (
        "card and network, processes with exchange below 10 %, with an iteration in RAM, samplers that keep one trainer busy"
    )
    rows = []
    for job in jobs:
        for card in cards:
            few = most(lambda count: shared(job, card, count).idle <= FEW)
            room = most(lambda count: shared(job, card, count).held <= card.ram)
            network = f"{card.name}, {8 * card.network / 1e9:.0f} Gbit/s"
            rows.append([job.model, network, f"{few:,}", f"{room:,}", str(samplers(job, card))])
    return in_columns(names, rows)


def most(fits: Callable[[int], bool], limit: int = 65536) -> int:
    """The largest number up to which it fits, where more never fit again."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def samplers(job: Job, card: Card) -> int:
    """So many that drawing takes no longer than training on what they draw, one iteration behind."""
    count = 1
    while (row := apart(job, card, count + 1)).sampling + row.exchange > row.training and count < CARDS[-1]:
        count += 1
    return count


def amount(count: float) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB" if count else "nothing"


def seconds(count: float) -> str:
    return f"{number(count)} s"


def number(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
