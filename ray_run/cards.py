"""Which machines' cards have room for the largest model file of a run: processes go there, since Ray knows no card's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .memory import GB, gigabytes

ROOM = 1e9  # bytes beside the weights: activations of the smallest batch
A_BIT = 0.01  # of a card, to look at it with
LONGEST_LOOK = 60.0  # seconds; a card that others use all of is not seen
NODE, KIND = "ray.io/node-id", "ray.io/accelerator-type"  # labels that Ray puts on machines; the second on those it knows
Selector = dict[str, str]


@dataclass(frozen=True)
class Cards:
    """Of a machine. room: for how many processes it has all that each asks for; size: bytes of its first card, taken for that
    of all, None where it could not be looked at; kind: Ray's name for it, None where it has none."""

    node: str
    address: str
    count: int
    room: int
    size: int | None
    kind: str | None = None

    def words(self) -> str:
        return f"{self.count} with {gigabytes(self.size) if self.size else 'unknown memory'} ({self.address})"


def size_of_first() -> int | None:
    """Bytes of the first card that this process sees."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def seen(
    ray, asked: dict[str, float], look: Callable[[], int | None] = size_of_first, patience: float = LONGEST_LOOK
) -> list[Cards]:
    """Of each machine that has cards. asked: by each process."""
    there = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    # the process of a look, and what that holds of the card, end with it
    task = ray.remote(num_cpus=0, num_gpus=A_BIT, max_calls=1)(look)
    looks = [task.options(label_selector={NODE: f"in({node['NodeID']})"}).remote() for node in there]
    answered, late = ray.wait(looks, num_returns=len(looks), timeout=patience) if looks else ([], [])
    for each in late:
        ray.cancel(each, force=True)
    return [
        Cards(
            node["NodeID"],
            node["NodeManagerAddress"],
            int(node["Resources"]["GPU"]),
            room(node["Resources"], asked),
            answer(ray, each) if each in answered else None,
            node.get("Labels", {}).get(KIND),
        )
        for node, each in zip(there, looks)
    ]


def answer(ray, look) -> int | None:
    """None where nothing could be looked at."""
    try:
        return ray.get(look)
    except ray.exceptions.RayError:
        return None


def room(there: dict[str, float], asked: dict[str, float]) -> int:
    return int(min(there.get(kind, 0) // each for kind, each in asked.items()))


def selector(large: list[Cards], machines: list[Cards]) -> Selector | None:
    """By the kind of card where that tells them apart, so that a machine that joins later counts, too. None for all."""
    others = [machine for machine in machines if machine not in large]
    if not others:
        return None
    kinds = {machine.kind for machine in large}
    if None not in kinds and kinds.isdisjoint(machine.kind for machine in others):
        return {KIND: f"in({','.join(sorted(kinds))})"}
    return {NODE: f"in({','.join(machine.node for machine in large)})"}


def choice(machines: list[Cards], count: int, each: float, largest: float | None) -> tuple[Selector | None, str]:
    """Where that many processes go, None for anywhere, and what is said of it. each: bytes that a card should have; largest: of
    the model files, None where the user has said how many. ValueError, in words, where the user has and they are not there."""
    large = [machine for machine in machines if machine.size is not None and machine.size >= each]
    found = sum(machine.room for machine in large)
    there = ", ".join(machine.words() for machine in machines)
    if found >= count:
        return selector(large, machines), f"Cards with {gigabytes(each)} or more: {found}; processes go there"
    if largest is None:
        raise ValueError(
            f"--card: {count} processes ask for a card of {gigabytes(each)} each, with their CPUs and memory (--cpus, --memory), "
            f"and Ray's machines have room for {found}; their cards: {there}. Take fewer processes or larger cards; or a smaller "
            "--card: weights that a card has no room for are streamed from RAM"
        )
    return None, (
        f"Cards with {gigabytes(each)} or more, for the largest model file ({gigabytes(largest)}) whole: {found}, where {count} "
        f"are needed; cards: {there}. On smaller ones weights are streamed from RAM, which takes longer (--card leaves them out)"
    )


def place(
    ray,
    count: int,
    asked: dict[str, float],
    given: float | None,
    largest: float,
    look: Callable[[], int | None] = size_of_first,
) -> tuple[Selector | None, str]:
    """``choice`` among the cluster's cards. given: GB that the user asks for, None for what the model files need."""
    each, known = (largest + ROOM, largest) if given is None else (given * GB, None)
    return choice(seen(ray, asked, look), count, each, known)
