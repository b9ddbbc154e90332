"""What the nodes of trainers through the reward have in common."""
from __future__ import annotations

from .node import TrainerNode

STEP = "Train Step (through the reward)"


def part_input(text: str, least: float = 0.0, most: float = 1.0) -> tuple:
    return ("FLOAT", {"min": least, "max": most, "step": 0.01, "tooltip": text})


class BackpropNode(TrainerNode):
    OUTPUT_TOOLTIPS = (f"For {STEP} and Train. Connect another trainer to change the algorithm.",)

    @classmethod
    def INPUT_TYPES(cls):
        inputs = super().INPUT_TYPES()
        reword(inputs["required"], "updates_per_rollout", "Optimizer steps in an iteration. The images are divided among "
               "them; 1 is the steadiest.")
        reword(inputs["optional"], "low_memory", "Decodes the images one by one and keeps still less of the model, which "
               "takes up to half more time. Switch it on for large images or when memory runs out.")
        return inputs


def reword(inputs: dict, name: str, tooltip: str) -> None:
    kind, options = inputs[name]
    inputs[name] = (kind, {**options, "tooltip": tooltip})
