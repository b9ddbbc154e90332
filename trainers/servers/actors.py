"""ComfyUIs in actors of Ray that only sample, lent to this process by the command that has started both."""

from __future__ import annotations

from .client import Client, Send

WORD = "ray"  # stands for all of them among the addresses
_lent: dict[str, Send] = {}


def lend(samplers: dict[str, Send]) -> None:
    """From here on these are there, by name."""
    _lent.clear()
    _lent.update(samplers)


def names() -> tuple[str, ...]:
    return tuple(_lent)


def client_of(address: str, timeout: float = Client.timeout) -> Client:
    """Of an actor by its name, or of a server by its address."""
    return Client(address, timeout, _lent.get(address))
