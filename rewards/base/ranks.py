"""The processes that share one training, where a launcher such as torchrun has started several; alone, all of this does nothing.

Every rank runs the same workflow with the same seeds. What is dear is dealt out (images that are sampled, decoded and scored,
micro-batches that are trained on), and what came out of it is handed to all; the rest each of them computes, to the same values.
So a policy, scores or a decision to stop are the same on every rank, and the same as in one process.

Before ranks exchange anything they meet: each says what it is about to do. One that has ended instead, by an error or a cancel,
says that, and all others end too; ranks that are not at the same place say so instead of waiting for each other for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .wire import packed, unpacked

T = TypeVar("T")
K = TypeVar("K")
AT_WORK, DONE, FAILED, CANCELLED, PAUSED = "at work", "done", "failed", "cancelled", "paused"
_left = False  # this process has met the others for the last time
_helps = False
_sharing = False  # the frozen weights are shared out, so that each rank does all of the network's work
_dealing = False  # scoring of this moment may be dealt out


class RankEnded(RuntimeError):
    """Another rank cannot go on, so this one cannot either."""


class RankCancelled(RankEnded):
    """Another rank was cancelled."""


class RankPaused(RankEnded):
    """Another rank misses something that is not there for the moment."""


ENDS = {FAILED: RankEnded, CANCELLED: RankCancelled, PAUSED: RankPaused}


def count() -> int:
    """How many ranks there are; 1 without a launcher."""
    return torch.distributed.get_world_size() if launched() and not _left else 1


def number() -> int:
    """Which one this is, from 0 on. The first one writes, and asks whoever is to be asked once."""
    return torch.distributed.get_rank() if count() > 1 else 0


def launched() -> bool:
    """Whether a launcher has started several processes, also when they have left each other."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def joined() -> None:
    """To be called once torch.distributed is initialised."""
    global _helps
    _helps = number() > 0


def share_weights() -> None:
    """From here on every rank asks the network all that is to be asked, and holds a part of its weights."""
    global _sharing
    _sharing = True


def shares_weights() -> bool:
    """Whether the ranks share out the network's weights, and not its work."""
    return _sharing and count() > 1


def splits_work() -> bool:
    """Whether each rank does a part of the network's work."""
    return count() > 1 and not _sharing


def helps() -> bool:
    """Whether this is not the first rank, also when the others are gone: it writes no file that a user keeps."""
    return _helps


def block(rows: int, unit: int = 1, rank: int | None = None) -> slice:
    """The rows of one rank (this one's): equally many whole units for each, the first ranks have what is over."""
    rank, ranks = number() if rank is None else rank, count()
    units = -(-rows // unit)
    each, over = divmod(units, ranks)
    first = rank * each + min(rank, over)
    return slice(min(first * unit, rows), min((first + each + (rank < over)) * unit, rows))


def own_part(items: Sequence[T]) -> list[T]:
    """The rank's own items for the network: they are dealt in turn, those with the same ``together`` to the same rank."""
    if not splits_work():
        return list(items)
    keys = [getattr(item, "together", place) for place, item in enumerate(items)]
    turns = {key: turn for turn, key in enumerate(dict.fromkeys(keys))}
    return [item for item, key in zip(items, keys) if turns[key] % count() == number()]


def met(what: str, value: Any = None) -> list[Any]:
    """The value of each rank, in their order. what: the place in the program, the same on all.

    Raises RankEnded, or one of its kinds, where a rank has left, and RuntimeError where the ranks are at different places.
    """
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    torch.distributed.all_gather_object(found, (AT_WORK, what, packed(value)))
    for rank, (state, place, _) in enumerate(found):
        if state != AT_WORK:
            _leave()
            raise ENDS.get(state, RankEnded)(f"rank {rank} has ended ({state}): {place}")
    if len({place for _, place, _ in found}) > 1:
        raise RuntimeError("the ranks are at different places: " + ", ".join(f"{r} at {f[1]}" for r, f in enumerate(found)))
    return [unpacked(sent) for _, _, sent in found]


def leave(state: str = DONE, why: str = "the workflow's end") -> None:
    """Meets the others for the last time, unless that has happened. Nothing is raised: they may be gone, too."""
    if count() == 1:
        return
    if (
        _sharing and state == FAILED
    ):  # the others may wait for weights in the middle of the network; they end when this one does
        return _leave()
    found: list[Any] = [None] * count()
    with contextlib.suppress(RuntimeError):
        torch.distributed.all_gather_object(found, (state, why, None))
    _leave()


def _leave() -> None:
    global _left
    _left = True


def of_first(what: str, make: Callable[[], T]) -> T:
    """What ``make`` gives on the first rank, on all; the others do not call it."""
    value: Any = make() if number() == 0 else None
    met(what)
    if count() == 1:
        return value
    sent = [packed(value)]
    torch.distributed.broadcast_object_list(sent)
    return value if number() == 0 else unpacked(sent[0])


def gathered(what: str, own: dict[K, Tensor], rows: int, unit: int = 1) -> dict[K, Tensor]:
    """Tensors of all ``rows`` from those of each rank's ``block``, [its rows, ...]; a rank without rows may give none."""
    if count() == 1:
        return own
    forms = met(what, {name: (tuple(value.shape[1:]), value.dtype) for name, value in own.items()})[0]
    whole: dict[K, Tensor] = {}
    for name, (shape, dtype) in forms.items():
        whole[name] = torch.empty(rows, *shape, dtype=dtype)
        for rank in range(count()):
            part = whole[name][block(rows, unit, rank)]
            if not len(part):
                continue
            if rank == number():
                part.copy_(own[name])
            torch.distributed.broadcast(part, rank)
    return whole


def own_batches(rows: int, unit: int) -> list[Tensor]:
    """The rows of the rank's ``block`` for the network, unit by unit; none where it has none."""
    own = block(rows, unit) if splits_work() else slice(0, rows)
    return [torch.arange(at, min(at + unit, own.stop)) for at in range(own.start, own.stop, unit)]


def joined_rows(what: str, parts: Sequence[Tensor], rows: int, unit: int = 1) -> Tensor:
    """[rows, ...] from the parts that each rank has made of its ``own_batches``, in their order. A part that is all is not
    copied."""
    return joined_blocks(what, parts, rows, unit) if splits_work() else _one(parts)


def joined_blocks(what: str, parts: Sequence[Tensor], rows: int, unit: int = 1) -> Tensor:
    """The same of its ``block``, which each rank has also where weights are shared out."""
    return gathered(what, {"": _one(parts)} if parts else {}, rows, unit)[""]


def _one(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def merged(what: str, own: dict[Any, T]) -> dict[Any, T]:
    """The entries of all ranks, of the network's work."""
    if not splits_work():
        return own
    return {key: value for part in met(what, own) for key, value in part.items()}


def total(what: str, own: int) -> int:
    """The sum over the ranks, of the network's work."""
    return sum(met(what, own)) if splits_work() else own


def add_gradients(what: str, leaves: Sequence[Tensor]) -> None:
    """Sums each leaf's gradient over the ranks; one that no rank has stays none. Where each has computed all: the first's."""
    if count() == 1:
        return
    has = met(what, [leaf.grad is not None for leaf in leaves])
    there = [leaf for leaf, *flags in zip(leaves, *has) if any(flags)]
    for leaf in there:
        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
    for dtype in dict.fromkeys(leaf.grad.dtype for leaf in there):
        found = [leaf.grad for leaf in there if leaf.grad.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in found])
        if _sharing:
            torch.distributed.broadcast(flat, 0)
        else:
            torch.distributed.all_reduce(flat)
        for gradient, part in zip(found, flat.split([gradient.numel() for gradient in found])):
            gradient.copy_(part.view_as(gradient))


@contextlib.contextmanager
def dealing_out() -> Iterator[None]:
    """Inside of it rewards that judge each image by itself are asked about a rank's own images only."""
    global _dealing
    before, _dealing = _dealing, True
    try:
        yield
    finally:
        _dealing = before


def deals() -> bool:
    """Whether a reward that is asked now may be asked about a part of the images on each rank."""
    return _dealing and count() > 1
