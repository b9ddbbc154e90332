"""How the processes that a launcher has started find each other: by five variables, whoever has set them."""

from __future__ import annotations

import datetime
import logging
import os
import time
import uuid
from dataclasses import dataclass
from typing import Any

from ..rewards.base import ranks
from ..rewards.base.words import brief

PATIENCE = datetime.timedelta(days=7)  # a person may be asked; Gloo counts milliseconds in 32 bits
BEGUN = "begun"  # the store of a launcher that starts all again may outlive them
REST = 0.02  # seconds


@dataclass(frozen=True)
class Start:
    """One start of all processes. again: the same launcher has had them begin before; store: where it keeps that, if it does."""

    again: bool = False
    store: Any = None
    __repr__ = brief

    def begin(self) -> None:
        """Leaves word for those that the launcher may start after these."""
        if self.store is not None and ranks.number() == 0:
            self.store.set(BEGUN, "")


def join_ranks(again: bool = False) -> Start:
    """Meets the other processes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); alone, nothing. again: this one was told that it is
    started once more."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Start(again)
    import torch

    store, rank, count = next(torch.distributed.rendezvous("env://", timeout=PATIENCE))
    own = torch.distributed.PrefixStore(name_of_this_start(store, rank, count), store)
    again = again or store.check([BEGUN])
    torch.distributed.init_process_group(backend(), store=own, rank=rank, world_size=count, timeout=PATIENCE)
    ranks.joined()
    logging.info("PostTrain: rank %d of %d", ranks.number(), ranks.count())
    return Start(any(ranks.met("whether it is a new start", again)), store)


def backend() -> str:
    """What torch.distributed sends with: tensors in RAM by Gloo, those on NVIDIA cards by NCCL."""
    import torch

    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and torch.distributed.is_nccl_available() else "gloo"


def name_of_this_start(store, rank: int, count: int) -> str:
    """The same on all ranks, and another one at each start: the store may still hold what an earlier start has left there, and
    how often each rank was started is not the same on all machines."""
    own = uuid.uuid4().hex
    store.set(f"here {rank}", own)
    if rank:
        while (all_here := store.get("all here").decode().split())[rank : rank + 1] != [own]:
            time.sleep(REST)
        store.set(f"heard {rank}", all_here[0])
        return all_here[0]
    store.set("heard 0", own)
    while any(_heard(store, each) != own for each in range(count)):
        store.set("all here", " ".join(store.get(f"here {each}").decode() for each in range(count)))
        time.sleep(REST)
    return own


def _heard(store, rank: int) -> str:
    return store.get(f"heard {rank}").decode() if store.check([f"heard {rank}"]) else ""
