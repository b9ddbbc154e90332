"""Other ComfyUIs that draw: who they are, whether they can, and what comes back from them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ...rewards.base.words import brief
from ...rewards.learned.holder import cancel_point
from . import client as api
from .actors import client_of
from .ahead import Ahead
from .client import Lost, Unfit
from .graph import STEPS_NODE, Source

AFTER, DURING = "after each update", "during the update"  # when they draw
OWN_STEPS = "as Rollout, with random steps"  # in the place of a sampler's name

Part = dict[str, torch.Tensor]  # what a task has given, by name, an image to a row


class Drawn(NamedTuple):
    """Of all images. busy: seconds that a computer has worked, the mean of all; lost: name of one that could not go
    on, and why."""

    values: Part
    busy: float
    lost: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Computers:
    """Other ComfyUIs. addresses: of each, up to the first route; model: the MODEL that they make, too, as ``source`` says;
    sampler: of KSampler, or OWN_STEPS; precision: of the LoRA that they get; seconds: for which one may sit on a task; when:
    AFTER an update, by the policy as it is then, or DURING it, one iteration behind."""

    addresses: tuple[str, ...]
    model: Any
    source: Source
    sampler: str = "euler"
    precision: str = "float32"
    seconds: float = 600.0
    when: str = AFTER
    sent: dict[str, list[str]] = field(default_factory=dict, compare=False, repr=False)  # LoRAs on each, the newest last
    ahead: Ahead[Drawn] = field(default_factory=Ahead, compare=False, repr=False)
    __repr__ = brief

    def ready(self) -> list[str]:
        """A line for each, once they have been looked at. ValueError where one lacks something, or none is there."""
        pool = ThreadPoolExecutor(len(self.addresses))
        try:
            jobs = [pool.submit(self._look_at, address) for address in self.addresses]
            while not all(job.done() for job in jobs):
                cancel_point()
                time.sleep(0.02)
            found = [job.result() for job in jobs]
        finally:  # after Cancel nobody waits for the answers
            pool.shutdown(wait=False, cancel_futures=True)
        lines = [f"{address}: {words}" for address, (_, words) in zip(self.addresses, found)]
        unfit = [line for line, (state, _) in zip(lines, found) if state is Unfit]
        if unfit:
            raise ValueError(f"addresses: {'; '.join(unfit)}. Mend that, or take the address out")
        if all(state is Lost for state, _ in found):
            raise ValueError(
                f"addresses: no ComfyUI is there. {'; '.join(lines)}. Start one with --listen, or correct the address"
            )
        return lines

    def _look_at(self, address: str) -> tuple[type | None, str]:
        client = client_of(address, 10.0)
        try:
            version = api.version_of(client)
            api.check_nodes(client, self.source.kinds() | ({STEPS_NODE} if self.sampler == OWN_STEPS else set()))
            api.check_files(client, self.source.files)
            api.send_lora(client, api.lora_form("posttrain.safetensors", api.EMPTY))
        except (Lost, Unfit) as error:
            return type(error), str(error)
        return None, f"ComfyUI {version}, ready"
