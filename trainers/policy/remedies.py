"""What is done where memory runs out, one remedy after the other, until what was asked fits."""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.model_management as management

from ...rewards.base import ranks
from .bank import Overlay
from .room import SHARES, Room

HALVINGS = 16  # of any batch


class Remedies:
    """room: what has been given up so far, and is from here on."""

    def __init__(self, overlay: Overlay, room: Room, device, needed: Callable[[], tuple]):
        """needed(): the ModelPatchers that must stay where they are."""
        self.room, self._overlay, self._device, self._needed = room, overlay, device, needed
        self._asked, self._inside = 0, False
        overlay.recompute_share(room.recompute)

    def parts(self, count: int) -> list[slice]:
        """``count`` samples in the parts that go through the network together."""
        self._asked = max(self._asked, count)
        size = self.room.at_once or max(count, 1)
        return [slice(at, at + size) for at in range(0, max(count, 1), size)]

    def tried(self, run: Callable, undo: Callable = lambda: None, *, training: bool = False):
        """run(); where memory runs out, again after each remedy that changes something.

        First the host moves out what this step does not need; then, while training, the activations of half of the blocks are
        recomputed, and of all; then half of the samples go through the network at once, and half of those. Inside of another
        run only the first, since what memory is full of is the other one's.
        """
        if ranks.shares_weights():
            return run()  # the other ranks are in the middle of the same, and would not begin anew
        if self._inside:
            return self._retried(run, undo, self._make_room)
        self._asked, self._inside = 0, True
        try:
            return self._retried(
                run, undo, self._make_room, *((self._recompute,) * len(SHARES) if training else ()), *(self._halve,) * HALVINGS
            )
        finally:
            self._inside = False

    @staticmethod
    def _retried(run: Callable, undo: Callable, *remedies: Callable[[], bool]):
        left = iter(remedies)
        while True:
            try:
                return run()
            except management.OOM_EXCEPTION:
                if not any(remedy() for remedy in left):
                    raise
            undo()  # not before here: the exception holds on to the memory of what failed

    def _make_room(self) -> bool:
        """Moves every other model off the device: a reward network, a text encoder. False where there is none."""
        keep = [m for m in management.current_loaded_models if any(m.model is own for own in self._needed())]
        return bool(management.free_memory(1e30, self._device, keep))

    def _recompute(self) -> bool:
        """Recomputes the activations of more blocks from here on. False where those of all are already."""
        room = None if self._overlay.recompute is True else self.room.more_recomputed()
        if room is None:
            return False
        self.room = room
        self._overlay.recompute_share(room.recompute)
        what = "recomputes half of its activations" if room.recompute < 1 else "goes on as with low memory switched on"
        logging.warning(
            "PostTrain: memory ran out in a train step, which %s. Switch low memory on, or lower the batch size, and no time is "
            "lost on the failed try.",
            what,
        )
        return True

    def _halve(self) -> bool:
        """Half of the samples go through the network at once from here on. False where it is one already."""
        room = self.room.halved(self._asked)
        if room is None:
            return False
        self.room = room
        logging.warning("PostTrain: memory ran out; it goes on with %d samples through the model at once.", room.at_once)
        return True
