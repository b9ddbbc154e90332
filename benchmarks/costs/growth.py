"""What a train step costs by what it is made of, against one of a single image: evaluations, seconds, bytes kept."""

from __future__ import annotations

from tools import pack

from . import Measure
from ._network import Asked, policy, ratios
from .evaluations import kept

# changes of a step of 4 images at 16 x 16, rank 16, all layers of attention and feed-forward
CHANGES = {
    "8 images": {"batch": 8}, "1 image": {"batch": 1}, "24 x 24 latents": {"side": 24}, "32 x 32 latents": {"side": 32},
    "guidance": {"guidance": 3.0}, "rank 4": {"rank": 4}, "rank 64": {"rank": 64}, "attention alone": {"layers": "attention"},
}  # fmt: skip


def measure() -> list[Measure]:
    policies = pack.module("trainers.policy", host=True)
    base = policy()
    found = []
    with policies.open_policy(base) as net:
        plain, bank = Asked(net, 4), net.to_device(base.bank, train=True)
        for name, change in CHANGES.items():
            if "rank" not in change and "layers" not in change:
                other = Asked(net, **{"batch": 4, **change})
                ratio, _ = ratios(plain.train(bank), {"it": other.train(bank)}, 5)["it"]
                bytes_kept = kept(other, bank) / kept(plain, bank)
                found.append(Measure(f"train step with {name}", ratio, "x", None, f"{bytes_kept:.2f} of the bytes kept"))
    for name, change in CHANGES.items():
        if "rank" in change or "layers" in change:
            found.append(_other_bank(name, change))
    return found


def _other_bank(name: str, change: dict) -> Measure:
    policies = pack.module("trainers.policy", host=True)
    base, made = policy(), policy(**change)
    # each in its own network: only one bank lies over a network at a time
    with policies.open_policy(base) as first, policies.open_policy(made) as second:
        banks = first.to_device(base.bank, train=True), second.to_device(made.bank, train=True)
        plain, other = Asked(first, 4), Asked(second, 4)
        ratio, _ = ratios(plain.train(banks[0]), {"it": other.train(banks[1])}, 5)["it"]
        bytes_kept = kept(other, banks[1]) / kept(plain, banks[0])
    return Measure(f"train step with {name}", ratio, "x", None, f"{bytes_kept:.2f} of the bytes kept")
