"""What a task gives up where memory runs out: activations, samples in a call, weights on the card. Its results stay the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ...rewards.base.words import brief

ROOM = "room"  # its place in the policy's memory, which a run's checkpoints keep
FULL = "Memory ran out"
SHARES = (0.5, 1.0)  # of what is given up in parts, one after the other


@dataclass(frozen=True)
class Room:
    """recompute: the share of the network's blocks whose activations are made again in the backward pass; at_once: samples that
    go through the network together at most, 0 for as many as asked; in_ram: the share of the network's weights that is kept in
    RAM and streamed in."""

    recompute: float = 0.0
    at_once: int = 0
    in_ram: float = 0.0
    __repr__ = brief

    def halved(self, asked: int) -> Room | None:
        """With half of the samples that are asked at once now; None where it is one already."""
        now = min(asked, self.at_once or asked)
        return None if now <= 1 else replace(self, at_once=(now + 1) // 2)

    def more_recomputed(self) -> Room | None:
        """With the next larger share of the blocks recomputed; None where all are."""
        share = _more_than(self.recompute)
        return None if share is None else replace(self, recompute=share)

    def more_in_ram(self) -> Room | None:
        """With the next larger share of the weights in RAM; None where all are there."""
        share = _more_than(self.in_ram)
        return None if share is None else replace(self, in_ram=share)

    def and_also(self, other: Room) -> Room:
        """All that either of them gives up."""
        sizes = [room.at_once for room in (self, other) if room.at_once]
        return Room(max(self.recompute, other.recompute), min(sizes, default=0), max(self.in_ram, other.in_ram))

    def words(self, why: str = FULL) -> str:
        """For the run's log and its node; empty where nothing is given up."""
        parts = []
        if self.recompute:
            parts.append(
                "half of the activations are recomputed"
                if self.recompute < 1
                else "activations are recomputed (as with low memory switched on)"
            )
        if self.at_once:
            parts.append(f"{self.at_once} {'image goes' if self.at_once == 1 else 'images go'} through the model at once")
        if self.in_ram:
            parts.append("the model is streamed from RAM" if self.in_ram == 1 else "half of the model is streamed from RAM")
        if not parts:
            return ""
        return f"{why}, so from now on {', '.join(parts)}. The mathematics stay the same, it only takes longer." + (
            " A smaller batch or image size, or low memory switched on from the start, lose no time on tries."
            if why == FULL
            else ""
        )


def _more_than(share: float) -> float | None:
    return next((more for more in SHARES if more > share), None)


WHOLE = Room()  # nothing is given up


def room_of(memory: dict) -> Room:
    """What the run of a policy with this memory has given up so far."""
    known = memory.get(ROOM, {})
    # older runs wrote down whether all blocks are recomputed
    return Room(float(known.get("recompute", 0)), int(known.get("at_once", 0)), float(known.get("in_ram", 0)))


def words_of(memory: dict) -> str:
    """What it has given up, in words; "" for nothing."""
    return memory.get(ROOM, {}).get("words", "")


def with_room(memory: dict, room: Room, why: str = FULL) -> dict:
    """The memory with what is given up by now, in numbers and words; as it is where nothing of it is new.

    why: the beginning of the words.
    """
    room = room_of(memory).and_also(room)
    return memory if room == room_of(memory) else {**memory, ROOM: {**asdict(room), "words": room.words(why)}}
