"""A small iteration that two processes share, and the bytes that came to each over the wire, as the kernel counts them."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from pathlib import Path

from tools.host import free_port

from .arithmetic import Job

RECEIVED = 128  # where tcp_info holds tcpi_bytes_received, 8 bytes (linux/tcp.h)
SETTINGS = {"prompts_per_iteration": 16, "images_per_prompt": 8, "batch_size": 32, "noisy_steps": 3}
RANKS = 2


def received_and_job() -> tuple[list[int], Job]:
    """Bytes received by each process in an iteration of Flow-GRPO on the demo world, and that iteration for ``arithmetic``."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (free_port(), folder), nprocs=RANKS)
        found = [(Path(folder) / str(rank)).read_text().split() for rank in range(RANKS)]
    lora, latent, picture, means, steps, updates = map(int, found[0][1:])
    images = SETTINGS["prompts_per_iteration"] * SETTINGS["images_per_prompt"] // RANKS
    job = Job("demo", lora, latent, picture, SETTINGS["noisy_steps"], bool(means), steps, 3, 0, 1.0, updates, images)
    return [int(each[0]) for each in found], job


def _work(rank: int, port: int, folder: str) -> None:
    from tools import pack

    from ..costs._rank import joined

    shared = joined(rank, RANKS, port, updates=2, **SETTINGS)
    policy, made, counts = shared.world.policy, shared.world, [0]
    for iteration in range(2):  # the first one connects
        policy = shared.iteration(policy, iteration)
        shared.ranks.met("both are here")
        counts.append(bytes_received())
    shared.ranks.leave()
    lora, means = (
        sum(weight.numel() for weight in policy.bank.values()),
        pack.module("trainers.methods").reads_means(shared.trainer),
    )
    updates = shared.trainer.optimizer.updates
    told = (counts[-1] - counts[-2], lora, 3 * 24 * 24, 24 * 24 * 3, int(means), made.sampling.steps, updates)
    (Path(folder) / str(rank)).write_text(" ".join(map(str, told)))


def bytes_received() -> int:
    """By all TCP connections that this process has open."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not os.readlink(entry).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    told = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", told, RECEIVED)[0]
        except OSError:
            continue  # it is closed, or listens
    return total
