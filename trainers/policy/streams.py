"""Order between the host's offload streams, which upload weights that do not fit, and the main one, which computes."""
from __future__ import annotations

import comfy.model_management as management
import torch


def offload_streams_wait(device: torch.device) -> None:
    """Every offload stream waits for what the main one has been told to do so far.

    Weights that a backward pass has let go lie in an offload stream's memory; the next upload gets that memory again, and
    may write into it while a kernel on the main stream still reads. During sampling the host orders this by itself, since
    it lets each weight go before it uploads the next but one.
    """
    if getattr(management, "NUM_STREAMS", 0) and device.type != "cpu":
        for _ in range(management.NUM_STREAMS):
            management.get_offload_stream(device)  # the host lets the oldest one wait whenever it hands the next one out
