"""What one iteration of a training on many cards moves, how long that takes, and what holds it up. Numbers in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4  # bytes of a number on its way: all are sent in float32
BACKWARD = 2  # forwards that a backward through frozen weights counts for, its recomputation included
MEMORY, SAMPLING, TRAINING, EXCHANGE = "RAM", "sampling", "training", "exchange"


@dataclass(frozen=True)
class Card:
    """speed: operations a second, as they are reached; network: bytes a second, its own share; ram: bytes of its machine, its
    share of them."""

    name: str
    speed: float
    network: float
    ram: float


@dataclass(frozen=True)
class Job:
    """An iteration. lora, latent, picture: numbers in one; random: steps whose states are kept, means: whether their means are;
    sampling, gradient, further: evaluations of an image, in the rollout and in the train step with a backward and without;
    operations: of an evaluation; updates: optimizer steps; images: for each card that samples."""

    model: str
    lora: int
    latent: int
    picture: int
    random: int
    means: bool
    sampling: float
    gradient: float
    further: float
    operations: float
    updates: int
    images: int

    @property
    def drawn(self) -> int:
        """Bytes that a rollout leaves of an image, without its picture."""
        states = self.random + 1 if self.random else 0
        latents = 1 + states + (self.random if self.means else 0)
        return FLOAT * (latents * self.latent + self.random)

    def sample_seconds(self, card: Card, images: int) -> float:
        return images * self.sampling * self.operations / card.speed

    def train_seconds(self, card: Card, images: int) -> float:
        return images * ((1 + BACKWARD) * self.gradient + self.further) * self.operations / card.speed


@dataclass(frozen=True)
class Row:
    """cards; received: bytes by the process that receives most; sampling, exchange, training: seconds; seconds: of the
    iteration; idle: share of all cards' time in which they wait; held: bytes of an iteration in one process; slowest: what to
    have more of."""

    cards: int
    received: float
    sampling: float
    exchange: float
    training: float
    seconds: float
    idle: float
    held: float
    slowest: str

    def card_seconds(self, images: int) -> float:
        """Of an image. images: of the iteration."""
        return self.cards * self.seconds / images


def shared(job: Job, card: Card, cards: int) -> Row:
    """All processes sample and train together: what one has drawn goes to all, gradients are summed in a ring."""
    each = job.images * (job.drawn + FLOAT * job.picture)
    received = (cards - 1) * each + job.updates * 2 * (cards - 1) / cards * FLOAT * job.lora
    parts = {
        SAMPLING: job.sample_seconds(card, job.images),
        EXCHANGE: received / card.network,
        TRAINING: job.train_seconds(card, job.images),
    }
    seconds = sum(parts.values())
    return _row(cards, received, parts, seconds, parts[EXCHANGE] / seconds, cards * each, card)


def apart(job: Job, card: Card, cards: int, behind: bool = False) -> Row:
    """One card trains and all others sample for it: the LoRA goes to each of them, latents and states come back. behind: it
    trains on one iteration's images while they draw the next one's."""
    samplers = max(cards - 1, 1)
    images = samplers * job.images
    sent = FLOAT * job.lora * (cards - 1)
    received = images * job.drawn if cards > 1 else 0
    parts = {
        SAMPLING: job.sample_seconds(card, job.images),
        EXCHANGE: max(sent, received) / card.network,  # both ways at once
        TRAINING: job.train_seconds(card, images),
    }
    drawing = parts[SAMPLING] + parts[EXCHANGE]
    seconds = max(drawing, parts[TRAINING]) if behind and cards > 1 else drawing + parts[TRAINING]
    busy = parts[TRAINING] + samplers * parts[SAMPLING]
    return _row(
        cards,
        received,
        parts,
        seconds,
        1 - busy / (cards * seconds),
        images * job.drawn,  # one process keeps pictures on its disk
        card,
    )


def _row(cards: int, received: float, parts: dict[str, float], seconds: float, idle: float, held: float, card: Card) -> Row:
    slowest = MEMORY if held > card.ram else max(parts, key=lambda name: parts[name])
    return Row(cards, received, parts[SAMPLING], parts[EXCHANGE], parts[TRAINING], seconds, idle, held, slowest)
