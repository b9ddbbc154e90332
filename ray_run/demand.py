"""What each process asks Ray for, and where it goes; said in lines, and refused in words where the cluster does not have it."""

from __future__ import annotations

import sys
from pathlib import Path

from . import cards, memory
from .cards import Selector


def of(ray, chosen, arguments: list[str], pack: Path) -> tuple[dict[str, float], Selector | None]:
    """-> what each asks for, by Ray's names, and the labels of machines that it goes to, None for any. chosen: of the command.
    ValueError, in words, where Ray would wait for ever."""
    on_cards = "--cpu" not in arguments and ray.cluster_resources().get("GPU")
    asked = {"CPU": chosen.cpus} | ({"GPU": 1.0} if on_cards else {})
    _enough(ray, chosen, asked)
    asks_for_files = chosen.memory is None or (on_cards and chosen.card is None)
    models = memory.of_models(ray, arguments, pack) if asks_for_files else []  # a ComfyUI looks for them
    _with_memory(ray, chosen, asked, models)
    return asked, _on_cards(ray, chosen, asked, models)


def _enough(ray, chosen, asked: dict[str, float]) -> None:
    """ValueError, in words, where Ray would wait for ever."""
    there, count = ray.cluster_resources(), _count(chosen)
    for kind, each in asked.items():
        if there.get(kind, 0) < count * each:
            raise ValueError(
                f"--workers {chosen.workers}, --samplers {chosen.samplers}, --judges {chosen.judges}: Ray has "
                f"{there.get(kind, 0):g} {kind} here, and each process asks for {each:g} (--cpus)"
            )


def _count(chosen) -> int:
    return chosen.workers + chosen.samplers + chosen.judges


def _with_memory(ray, chosen, asked: dict[str, float], models: list[int]) -> None:
    """Puts the memory into what each process asks for, and says it. models: bytes of each file. ValueError, in words, where Ray
    would wait for ever."""
    total = sum(models) if chosen.memory is None else None
    asked["memory"] = float(int(memory.ITSELF + total if total is not None else chosen.memory * memory.GB))
    _tell(memory.words_of(asked, total))
    if short := memory.short_of(ray.nodes(), _count(chosen), asked["memory"], total):
        raise ValueError(short)


def _on_cards(ray, chosen, asked: dict[str, float], models: list[int]) -> cards.Selector | None:
    """To which machines processes go, None where to any, and says it. ValueError, in words, where no card is large enough."""
    if "GPU" not in asked:
        if chosen.card is not None:
            raise ValueError("--card: Ray has no cards here, or --cpu leaves them alone; leave --card out")
        return None
    where, said = cards.place(ray, _count(chosen), asked, chosen.card, max(models, default=0))
    _tell(said)
    return where


def _tell(words: str) -> None:
    print(f"PostTrain: {words}", file=sys.stderr, flush=True)
