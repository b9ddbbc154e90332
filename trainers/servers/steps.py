"""Images with their random steps and likelihoods, drawn by other ComfyUIs that have this pack: as Rollout draws them here.

The policy goes there as its own weights, not as a LoRA file, and each computer draws whole batches: what a network answers
depends in its last digits on the batch. Back come the images, the states before and after each random step and their likelihoods.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import safetensors
import safetensors.torch
import torch

from ...rewards.base.prompt import Prompt
from ...rewards.base.words import shown
from ..policy.bank import Recipe
from ..policy.fitting import in_room
from ..policy.kinds import Member
from ..policy.levels import ModelLevels
from ..policy.value import Bank, Policy
from ..policy.weights import outside_inference
from ..prompts import PromptSet
from ..sampling.draws import Samples, chosen_samples
from ..sampling.plan import plan_of
from ..sampling.rollout import Sampler
from ..sampling.settings import Sampling, own_steps
from ..sampling.trajectory import StepsKept, Trajectory
from . import client as api
from .client import Client, Form, Lost
from .computers import Part
from .drawing import HEADER, LATENTS, Drawing
from .graph import SAVED, STEPS_NODE, Graph

STATES, LIKELIHOODS, MEANS, EVALUATIONS = "states", "log_probs", "means", "evaluations"
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HELD = "posttrain_weights"  # the name of a policy's weights in an input folder begins so


class StepsDrawing(Drawing):
    """As Rollout, by the pack's own node there; some batches are a task."""

    def __init__(self, *given, keep_means: bool = True):
        self.keep_means = keep_means
        super().__init__(*given)

    def _settle(self, bank: Bank, shape: tuple[int, ...]) -> None:
        sampling, policy = self.sampling, self.policy
        self.samples = chosen_samples(len(self.prompts), replace(sampling, same_start=sampling.one_start), self.iteration)
        self.each = math.lcm(sampling.batch_size, sampling.images_per_prompt if sampling.one_start else 1)
        self.shape = shape
        self.plan = plan_of(ModelLevels(policy.model), sampling, self.iteration)
        self.own = own_steps(sampling, self.iteration, self.samples.index, self.plan.noisy)
        content = sent_policy(replace(policy, bank=bank), PRECISIONS[self.computers.precision])
        self.name = f"{HELD}_{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        self.form = Form(self.name, content, "input")
        steps = self.plan.noisy[1] - self.plan.noisy[0]
        self.largest = 4 * self.each * (2 * steps + 2) * math.prod(shape) + HEADER

    def _ready(self, client: Client) -> dict[str, str]:
        if not self._known(client):
            api.check_upload(client, self.form.size)
        stored = client.upload(self.form)
        self._clear(client, stored, "input")
        return {"weights": stored}

    def _graph(self, stored: dict[str, str], task: int) -> Graph:
        assert self.prompts.texts is not None
        source, rows = self.computers.source, torch.arange(len(self.samples))[task * self.each : (task + 1) * self.each]
        numbers, index = self.samples.index[rows].unique(return_inverse=True)
        job = {
            "sampling": asdict(replace(self.sampling, open=())),
            "iteration": self.iteration,
            "shape": self.shape,
            "keep_means": self.keep_means,
            "prompts": [self.prompts.prompts[number].text for number in numbers.tolist()],
            "index": index.tolist(),
            "seeds": self.samples.seeds[rows].tolist(),
            "starts": None if self.samples.starts is None else self.samples.starts[rows].tolist(),
            "own": None if self.own is None else self.own[rows].tolist(),
        }
        inputs = {
            "model": list(source.model),
            "clip": list(source.clip),
            "weights": stored["weights"],
            "negative": self.prompts.texts.negative,
            "distilled_guidance": self.prompts.texts.distilled_guidance,
            "job": json.dumps(job),
            "prefix": uuid.uuid4().hex,
        }
        return source.nodes | {SAVED: {"class_type": STEPS_NODE, "inputs": inputs}}

    def _read(self, content: bytes, task: int) -> Part:
        count, steps = (
            len(self.samples.index[task * self.each : (task + 1) * self.each]),
            self.plan.noisy[1] - self.plan.noisy[0],
        )
        shapes: dict[str, tuple[int, ...]] = {LATENTS: (count, *self.shape), EVALUATIONS: (1,)}
        if steps:
            shapes |= {STATES: (count, steps + 1, *self.shape), LIKELIHOODS: (count, steps)}
            shapes |= {MEANS: (count, steps, *self.shape)} if self.keep_means else {}
        try:
            found = safetensors.torch.load(content)
        except (safetensors.SafetensorError, ValueError) as error:
            raise Lost(f"what it gives for random steps are none ({shown(str(error), 100)})") from error
        given = {name: tuple(value.shape) for name, value in found.items()}
        if given != shapes or not all(value.dtype == torch.float32 for value in found.values()):
            raise Lost(f"its random steps are {given} and not {shapes}; it must load the same model as this computer")
        return found


def random_steps(
    policy: Policy, samples: Samples, sampling: Sampling, iteration: int, keep_means: bool, values: Part
) -> tuple[Trajectory | None, int]:
    """The random steps of all images, and how many of the window could not be random."""
    plan = plan_of(ModelLevels(policy.model), sampling, iteration)
    kept = StepsKept(len(samples), plan, keep_means, own_steps(sampling, iteration, samples.index, plan.noisy))
    kept.values = {name: values[name] for name in (STATES, LIKELIHOODS, MEANS) if name in values}
    return kept.trajectory(), plan.left_out


def sent_policy(policy: Policy, dtype: torch.dtype) -> bytes:
    """A policy's weights, and what they are."""
    recipe = json.dumps(asdict(policy.recipe))
    return safetensors.torch.save({k: v.to(dtype).contiguous() for k, v in policy.bank.items()}, {"recipe": recipe})


def received_policy(model, path) -> Policy:
    """The policy of a file of ``sent_policy``, for this model. ValueError where it is none."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})["recipe"])
            bank = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        members = told.pop("members")
        if members is not None:
            members = {name: Member(**{**each, "parts": tuple(each["parts"])}) for name, each in members.items()}
        return Policy(model, Recipe(**{**told, "open": (), "members": members}), bank)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"weights: they are no policy's ({shown(str(error), 200)}); Rollout on Other Computers sends them"
        ) from None


@torch.inference_mode(False)
@torch.no_grad()
def drawn_steps(policy: Policy, negative: str, job: str, encode: Callable[[str], list]) -> Part:
    """What a job asks for, drawn here. encode: text -> CONDITIONING. ValueError where the job is none."""
    try:
        told: dict[str, Any] = json.loads(job)
        sampling = Sampling(**{**told["sampling"], "open": ()})
        starts, own = (None if told[name] is None else torch.tensor(told[name]) for name in ("starts", "own"))
        samples = Samples(torch.tensor(told["index"]), torch.tensor(told["seeds"]), starts)
        texts, shape = [str(text) for text in told["prompts"]], tuple(int(size) for size in told["shape"])
        iteration, keep_means = int(told["iteration"]), bool(told["keep_means"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"job: it is none ({shown(str(error), 200)}); Rollout on Other Computers sends it") from None
    # what the host's text encoder answers may be inference tensors
    positive, without = outside_inference([encode(text) for text in texts]), outside_inference(encode(negative))
    prompts = PromptSet(tuple(map(Prompt, texts)), positive, without)

    def sampled(net) -> Part:
        plan = plan_of(net, sampling, iteration)
        sampler = Sampler(net, net.to_device(policy.bank), prompts, samples, sampling, plan, shape, keep_means, None, own)
        latents = sampler.latents()
        return {LATENTS: latents, **sampler.kept.values, EVALUATIONS: torch.tensor([float(net.evaluations)])}

    return in_room(policy, sampled)[0]
