"""All that is measured at one model's size, for as long as there is time: what is not reached is named."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .bare import Bare, bare, profile
from .iteration import IMAGES, PROMPTS, Row, World, measured, train_step, world
from .models import Size
from .start import module

FIRST = ("FlowGRPO", "DiffusionDPO", "DRaFT", "NFT", "DDPO")  # one of each kind, should time be short
SPARE = 1.3  # times what the longest took so far must be left for another one


@dataclass
class Clock:
    """How long there is. ends: on the monotonic clock."""

    ends: float

    @classmethod
    def of(cls, seconds: float) -> Clock:
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        return self.ends - time.monotonic()

    def part(self, share: float) -> Clock:
        """The first part of what is left."""
        return Clock.of(self.left() * share)


@dataclass
class Part:
    """A model's numbers so far. left_out: what there was no time for; profile: (name, calls, milliseconds, share); words: what
    stopped all of it."""

    size: Size
    low_memory: bool
    bare: Bare | None = None
    rows: list[Row] = field(default_factory=list)
    profile: list[tuple[str, int, float, float]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    words: str = ""


def trainers() -> list[type]:
    """Every trainer, those first that stand for a kind."""
    methods = module("trainers.methods").METHODS
    return sorted(methods, key=lambda kind: FIRST.index(kind.__name__) if kind.__name__ in FIRST else len(FIRST))


def measure(part: Part, kinds: list[type], dtype: torch.dtype, clock: Clock, seen: Callable[[str], None]) -> None:
    """Fills the part in. seen: told of every piece, in words."""
    part.left_out = ["the bare network", "the profile", *(kind.__name__ for kind in kinds)]
    here = world(part.size, dtype, part.low_memory)
    part.bare = bare(here, PROMPTS * IMAGES)
    part.left_out.remove("the bare network")
    seen(f"{part.size.name}: an evaluation takes {1000 * part.bare.forward:.0f} ms, "
         f"with its backward {1000 * part.bare.both:.0f} ms")  # fmt: skip
    longest = 0.0
    for kind in kinds:
        if clock.left() < SPARE * longest:
            break
        begun = time.monotonic()
        part.rows.append(row(here, kind, part.bare))
        part.left_out.remove(kind.__name__)
        longest = max(longest, time.monotonic() - begun)
        seen(f"{part.size.name}: {part.rows[-1].trainer}: {part.rows[-1].words or 'done'} ({time.monotonic() - begun:.0f} s)")
        if not part.profile and not part.rows[-1].failed:
            part.profile = profiled(here, kind)
            part.left_out.remove("the profile")


def row(here: World, kind: type, known: Bare) -> Row:
    """One trainer's row; a trainer that fails is a row with its words, and the others go on."""
    try:
        return measured(here, kind, known.forward, known.both)
    except Exception as error:  # whatever it is, it belongs on the page
        release()
        return Row(kind.__name__, words=f"{type(error).__name__}: {str(error).splitlines()[0][:300]}", failed=True)


def profiled(here: World, kind: type) -> list[tuple[str, int, float, float]]:
    step, _ = train_step(here, here.trainer(kind), here.sampling(kind))
    return profile(lambda: step(here.policy))


def release() -> None:
    import comfy.model_management as management

    management.unload_all_models()
    gc.collect()
    torch.cuda.empty_cache()
