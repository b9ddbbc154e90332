"""One evaluation of the network: what the LoRA, the gradient, low memory and the host's attention cost on top of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch

from tools import pack

from . import Measure
from ._network import LAYERS, Asked, most_kept, policy, ratios


def measure() -> list[Measure]:
    return [*lora(), *low_memory(), *attention()]


def lora() -> list[Measure]:
    """Against the same network without it."""
    found = []
    for layers in LAYERS:
        for dtype in (torch.float32, torch.bfloat16):
            made = policy(layers=layers, dtype=dtype)
            count = len(made.bank) // 2
            with pack.module("trainers.policy").open_policy(made) as net:
                asked, bank = Asked(net, 8), net.to_device(made.bank)
                ratio, seconds = ratios(asked.forward(None), {"on": asked.forward(bank)})["on"]
            what = f"{count} layers ({layers}), {str(dtype).removeprefix('torch.')}"
            found.append(Measure(f"forward with a LoRA of rank 16 on {what}", ratio, "x", 1.5, f"{1000 * seconds:.0f} ms"))
    return found


def low_memory() -> list[Measure]:
    made = policy()
    with pack.module("trainers.policy").open_policy(made) as net:
        asked, bank = Asked(net, 8), net.to_device(made.bank, train=True)
        ways = {"half of the blocks": net.blocks // 2, "all blocks": True}
        taken = ratios(asked.train(bank), {name: asked.train(bank, blocks) for name, blocks in ways.items()}, 5)
        whole = kept(asked, bank)
        held = {name: kept(asked, bank, blocks) / whole for name, blocks in ways.items()}
    limits = {"half of the blocks": 1.4, "all blocks": 1.6}
    return [Measure(f"low memory, {name}", taken[name][0], "x", limits[name], f"of the time, with {held[name]:.2f} of the bytes kept")
            for name in ways]  # fmt: skip


def kept(asked: Asked, bank, blocks: bool | int = False) -> int:
    """Bytes that autograd keeps for the backward pass of one question, weights left out."""
    return most_kept(asked.net.diffusion_model, asked.train(bank, blocks))


def attention() -> list[Measure]:
    """PyTorch's in the place of the host's usual one on a CPU, by the size of the latent: both as the pack trains with them."""
    module, made, found = pack.module("trainers.policy.attention", host=True), policy(layers="attention"), []
    with pack.module("trainers.policy").open_policy(made) as net:
        bank, trained = net.to_device(made.bank), net.to_device(made.bank, train=True)
        for side in (16, 32, 48):
            asked = Asked(net, 1, side)
            for name, run in (("rollout", asked.forward(bank)), ("train step", asked.train(trained))):
                ratio, seconds = ratios(hosts(module, run), {"ours": run}, 5)["ours"]
                found.append(Measure(f"PyTorch's attention for the host's, {name}, {side} x {side} latent", ratio, "x", 1.05,
                                     f"{1000 * seconds:.0f} ms"))  # fmt: skip
    return found


def hosts(module, run: Callable) -> Callable:
    """With the host's attention, however many positions there are."""

    @contextmanager
    def theirs():
        before, module.LEAST = module.LEAST, 10**9
        try:
            yield
        finally:
            module.LEAST = before

    def again() -> None:
        with theirs():
            run()

    return again
