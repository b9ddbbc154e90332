"""The LoRA among the outputs of ComfyUI's Train LoRA, whose order differs from one version of ComfyUI to the next."""

from __future__ import annotations

from collections.abc import Mapping

from ..sockets import MENU

OUTPUTS = "MODEL,LORA_MODEL,LOSS_MAP"  # what Train LoRA's first two are, in any version


class PTTrainedLora:
    DESCRIPTION = (
        "Takes the first two outputs of ComfyUI's Train LoRA and hands on the LoRA among them. Their order differs from one "
        "version of ComfyUI to the next; with this node a workflow runs on all of them."
    )
    CATEGORY, FUNCTION = f"{MENU}/2 Policy", "run"
    RETURN_TYPES, RETURN_NAMES = ("LORA_MODEL",), ("lora",)
    OUTPUT_TOOLTIPS = ("For Create Policy, Load LoRA Model or Save LoRA Weights.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "first": (OUTPUTS, {"tooltip": "The first output of Train LoRA."}),
                "second": (OUTPUTS, {"tooltip": "The second output of Train LoRA."}),
            }
        }

    def run(self, first, second):
        found = [each for each in (first, second) if is_lora(each)]
        if len(found) != 1:
            raise ValueError(
                f"first, second: {'neither' if not found else 'each'} of the two is a LoRA; connect the first and the second "
                "output of ComfyUI's Train LoRA"
            )
        return (found[0],)


def is_lora(value: object) -> bool:
    """Whether it is weights by name, as the host's LORA_MODEL is; a map of losses holds lists."""
    return isinstance(value, Mapping) and bool(value) and all(hasattr(each, "shape") for each in value.values())


NODES = {"PTTrainedLora": PTTrainedLora}
NAMES = {"PTTrainedLora": "LoRA of Train LoRA"}
