"""The node of ReFL."""
from __future__ import annotations

from .backprop_node import STEP, BackpropNode, part_input


class PTReFL(BackpropNode):
    DESCRIPTION = ("ReFL: walks to a random late step without gradient, lets the model guess the finished picture from "
                   "there, and follows the reward's gradient through that one guess. The cheapest of its kind. "
                   "arXiv:2304.05977")
    RATE, UPDATES = 1e-4, 1
    SETTINGS = {
        "earliest": part_input("Where on the way the guess is made, at the earliest: 0 is pure noise, 1 the finished "
                               "picture."),
        "latest": part_input("Where on the way the guess is made, at the latest."),
        "margin": ("FLOAT", {"min": -1e6, "max": 1e6, "step": 0.1, "tooltip": "Pictures with a reward from "
                   "here on are good enough and are left alone. 2 suits ImageReward; suit it to your reward."}),
        "scale": ("FLOAT", {"min": 1e-9, "max": 1000.0, "step": 1e-4, "round": 1e-9, "tooltip": "Factor of "
                  "the reward's part of the loss, against the pretraining part."}),
        "pretrain_weight": ("FLOAT", {"max": 1000.0, "step": 0.01, "round": 1e-6, "tooltip":
                            f"How much the model also goes on learning from the pretraining images of {STEP}, so that it "
                            "stays a model of images. 0: not at all, as in the official code."})}

    @classmethod
    def kind(cls):
        from ...trainers.refl import ReFL
        return ReFL


NODES = {"PTReFL": PTReFL}
NAMES = {"PTReFL": "ReFL"}
