"""A policy that is quick to train, as a value, and the nodes of a loop around it. An iteration moves 1 MB of images."""
from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch

SIZE = 64


@dataclass(frozen=True)
class LabPolicy:
    weights: torch.Tensor
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def state(self):
        return {"weights": self.weights}, {"step": self.step, "metrics": self.metrics}

    def with_state(self, tensors, meta):
        return replace(self, weights=tensors["weights"], step=meta["step"], metrics=meta["metrics"])


def new_policy(seed: int) -> LabPolicy:
    with torch.inference_mode(False):
        return LabPolicy(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed)))


def images_of(iteration: int, count: int = 5) -> torch.Tensor:
    return torch.rand((count, 132, 132, 3), generator=torch.Generator().manual_seed(iteration))


def advantages_of(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean()) / (scores.std() + 1e-6)


def train(policy: LabPolicy, images: torch.Tensor, advantages: torch.Tensor, rate: float) -> LabPolicy:
    with torch.inference_mode(False), torch.enable_grad():
        x = images.clone().flatten(1)[:, :SIZE]
        weights = policy.weights.clone().requires_grad_(True)
        loss = -((x @ weights).mean(1) * advantages.clone()).mean()
        slope, = torch.autograd.grad(loss, weights)
        return LabPolicy(weights.detach() - rate * slope, policy.step + 1,
                         {"loss": float(loss.detach()), "reward_mean": float(x.mean()), "skipped_updates_in_a_row": 0})


def plain_loop(iterations: int, seed: int = 0, rate: float = 0.1) -> float:
    """What every loop has to come to."""
    policy = new_policy(seed)
    for i in range(iterations):
        images = images_of(i)
        policy = train(policy, images, advantages_of(images.mean((1, 2, 3))), rate)
    return checksum(policy)


def checksum(policy: LabPolicy) -> float:
    return float(policy.weights.double().sum())


class LabCreatePolicy:
    RETURN_TYPES, FUNCTION, CATEGORY = ("PT_POLICY",), "run", "lab"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    def run(self, seed):
        return (new_policy(seed),)


class LabRollout:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "lab"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"policy": ("PT_POLICY",), "iteration": ("INT", {"forceInput": True}),
                             "seconds": ("FLOAT", {"default": 0.0, "max": 100.0, "step": 0.001})}}

    def run(self, policy, iteration, seconds):
        time.sleep(seconds)
        return (images_of(iteration),)


class LabScore:
    RETURN_TYPES, FUNCTION, CATEGORY = ("LAB_SCORES",), "run", "lab"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def run(self, images):
        return (images.mean((1, 2, 3)),)


class LabAdvantages:
    RETURN_TYPES, FUNCTION, CATEGORY = ("LAB_ADVANTAGES",), "run", "lab"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"scores": ("LAB_SCORES",)}}

    def run(self, scores):
        return (advantages_of(scores),)


class LabTrainStep:
    RETURN_TYPES, FUNCTION, CATEGORY = ("PT_POLICY",), "run", "lab"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"policy": ("PT_POLICY",), "images": ("IMAGE",), "advantages": ("LAB_ADVANTAGES",),
                             "rate": ("FLOAT", {"default": 0.1}), "fail_at": ("INT", {"default": -1, "min": -1}),
                             "skip_from": ("INT", {"default": -1, "min": -1})}}

    def run(self, policy, images, advantages, rate, fail_at, skip_from):
        if policy.step == fail_at:
            raise ValueError("this step was told to fail")
        new = train(policy, images, advantages, rate)
        if 0 <= skip_from <= policy.step:
            in_a_row = policy.metrics.get("skipped_updates_in_a_row", 0) + 1
            new = replace(policy, step=policy.step + 1,
                          metrics={"skipped_updates_in_a_row": in_a_row, "loss": float("nan")})
        return (new,)


class LabReport:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "lab", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"policy": ("PT_POLICY",)}}

    def run(self, policy):
        return {"ui": {"steps": [policy.step], "checksum": [checksum(policy)]}}


BODY = {c.__name__: c for c in (LabCreatePolicy, LabRollout, LabScore, LabAdvantages, LabTrainStep, LabReport)}
