"""The node of Flow-GRPO."""
from __future__ import annotations

from ..widgets import CHOICE
from .node import CLIP_RANGE, WATCH_KL, TrainerNode


class PTFlowGRPO(TrainerNode):
    DESCRIPTION = ("Flow-GRPO: images of the same prompt compete; steps that led to better ones become likelier. For "
                   "flow models (SD3, Flux, Lumina) with any reward, also rules. arXiv:2505.05470")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {
        "clip_range": (CLIP_RANGE[0], {**CLIP_RANGE[1], "tooltip": CLIP_RANGE[1]["tooltip"] + " 0 takes the usual value of the "
                                       "trust region."}),
        "trust": (CHOICE, {"tooltip": "How a rollout is kept from moving the policy too "
                  "far. clipped ratio: Flow-GRPO's; guard: GRPO-Guard, less reward hacking; exact KL: Flow-DPPO. Each "
                  "has a clip range of its own, which a clip range of 0 takes."}),
        "beta": ("FLOAT", {"max": 1000.0, "step": 0.001, "round": 1e-6,
                 "tooltip": "Holds the policy near your model (weight of the KL). 0 is off and saves a third of the "
                            "cost; raise it when pictures lose quality while the reward rises. The papers' 0.04 and 0.01 are "
                            "about 0.006 and 0.0015 here."}),
        "watch_kl": WATCH_KL}
    NEWEST = {
        "step_weights": (CHOICE, {"tooltip": "How much each random step counts. by noise: as TempFlow-GRPO, the noisier "
                                  "the more, which are the early ones that decide the composition; on average as "
                                  "much as even. by gradient: as Flash-GRPO, so that the gradients of all steps are alike."})}

    @classmethod
    def kind(cls):
        from ...trainers.flow_grpo import FlowGRPO
        return FlowGRPO


NODES = {"PTFlowGRPO": PTFlowGRPO}
NAMES = {"PTFlowGRPO": "Flow-GRPO"}
