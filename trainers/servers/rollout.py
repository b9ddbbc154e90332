"""A rollout that other ComfyUIs sample: the policy goes to them, latents come back and are decoded here.

They sample with KSampler, for trainers that learn from finished images; or, where they have this pack, as Rollout does,
with random steps and their likelihoods.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...rewards.base import beside, ranks
from ...rewards.base.stopwatch import SAMPLERS, SAMPLING, note, timed
from ...rewards.base.words import brief
from ...rewards.learned.holder import cancel_point
from ..policy.latents import image_bytes, latent_shape
from ..policy.levels import ModelLevels
from ..policy.value import BEFORE, Bank, Policy
from ..prompts import PromptSet
from ..sampling.draws import chosen_samples
from ..sampling.need import Need, rollout_need
from ..sampling.plan import plan_of
from ..sampling.recommended import settled_sampling
from ..sampling.rollout import Behind, Progress, Rollout, pictures, say_and_check
from ..sampling.settings import AUTO, Sampling
from . import client as api
from .actors import client_of
from .ahead import Ahead
from .client import Lost, Unfit
from .drawing import EMPTY, LATENTS, Drawing, Drawn
from .graph import Source
from .steps import EVALUATIONS, NODE, StepsDrawing, random_steps

QUIET = "deterministic"
AFTER, DURING = "after each update", "during the update"  # when they draw
OWN_STEPS = "as Rollout, with random steps"  # in the place of a sampler's name


@dataclass(frozen=True)
class Computers:
    """Other ComfyUIs. addresses: of each, up to the first route; model: the MODEL that they make, too, as ``source`` says;
    sampler: of KSampler, or OWN_STEPS; precision: of the LoRA that they get; seconds: for which one may sit on a task; when:
    AFTER an update, by the policy as it is then, or DURING it, one iteration behind."""

    addresses: tuple[str, ...]
    model: Any
    source: Source
    sampler: str = "euler"
    precision: str = "float32"
    seconds: float = 600.0
    when: str = AFTER
    sent: dict[str, list[str]] = field(default_factory=dict, compare=False, repr=False)  # LoRAs on each, the newest last
    ahead: Ahead[Drawn] = field(default_factory=Ahead, compare=False, repr=False)
    __repr__ = brief

    def ready(self) -> list[str]:
        """A line for each, once they have been looked at. ValueError where one lacks something, or none is there."""
        pool = ThreadPoolExecutor(len(self.addresses))
        try:
            jobs = [pool.submit(self._look_at, address) for address in self.addresses]
            while not all(job.done() for job in jobs):
                cancel_point()
                time.sleep(0.02)
            found = [job.result() for job in jobs]
        finally:  # after Cancel nobody waits for the answers
            pool.shutdown(wait=False, cancel_futures=True)
        lines = [f"{address}: {words}" for address, (_, words) in zip(self.addresses, found)]
        unfit = [line for line, (state, _) in zip(lines, found) if state is Unfit]
        if unfit:
            raise ValueError(f"addresses: {'; '.join(unfit)}. Mend that, or take the address out")
        if all(state is Lost for state, _ in found):
            raise ValueError(
                f"addresses: no ComfyUI is there. {'; '.join(lines)}. Start one with --listen, or correct the address"
            )
        return lines

    def _look_at(self, address: str) -> tuple[type | None, str]:
        client = client_of(address, 10.0)
        try:
            version = api.version_of(client)
            api.check_nodes(client, self.source.kinds() | ({NODE} if self.sampler == OWN_STEPS else set()))
            api.check_files(client, self.source.files)
            api.send_lora(client, api.lora_form("posttrain.safetensors", EMPTY))
        except (Lost, Unfit) as error:
            return type(error), str(error)
        return None, f"ComfyUI {version}, ready"


@timed(SAMPLING)
@torch.inference_mode(False)
@torch.no_grad()
def rollout_by_computers(
    policy: Policy,
    prompts: PromptSet,
    vae,
    sampling: Sampling,
    computers: Computers,
    iteration: int = 0,
    *,
    keep_means: bool = True,
    progress: Progress | None = None,
    tell: Callable[[Need], None] | None = None,
) -> Rollout:
    """Prompts, images and first noise of ``sampling.rollout.rollout``, without random steps and by KSampler, or as there.

    progress: called with (images there, all, the last task's first one [1, C, H, W]). Raises ValueError naming the input that
    does not fit, RewardUnavailable where every computer is lost.
    """
    left_open, own, settled = sampling.open, computers.sampler == OWN_STEPS, settled_sampling(policy, sampling)
    sampling = settled if own else checked(sampling, settled)
    check_wires(policy, prompts, computers)
    samples = chosen_samples(len(prompts), sampling, iteration)
    shape = latent_shape(policy.model, vae, sampling.width, sampling.height)
    plan = plan_of(ModelLevels(policy.model), sampling, iteration)
    random = plan.noisy[1] - plan.noisy[0]
    say_and_check(rollout_need(shape, sampling, len(prompts), random, keep_means, image_bytes(vae, (1, *shape))), tell)

    def drawing(bank: Bank, iteration: int) -> Drawing:
        given = (policy, bank, prompts, sampling, computers, shape, iteration)
        return StepsDrawing(*given, keep_means=keep_means) if own else Drawing(*given)

    now: Bank = policy.chosen("behaviour") or policy.bank
    behind = None if computers.when == AFTER else behind_of(policy, now)
    sampler = now if behind is None else behind.bank
    drawn = ranks.of_first(
        "latents of other computers",
        lambda: computers.ahead.result(drawing(sampler, iteration), cancel_point, progress or (lambda *_: None)),
    )
    note(SAMPLERS, drawn.busy)
    if computers.when == DURING and beside.comes(iteration + 1) and ranks.number() == 0:
        beside.ends_with_the_run(computers.ahead.end)
        computers.ahead.begin(drawing(now, iteration + 1))
    latents, counted = drawn.values[LATENTS], drawn.values.get(EVALUATIONS)
    trajectory, left_out = random_steps(policy, samples, sampling, iteration, keep_means, drawn.values)
    return Rollout(
        latents=latents,
        images=pictures(policy.model, vae, latents),
        prompts=prompts,
        index=samples.index,
        seeds=samples.seeds,
        guidance=sampling.guidance,
        sigmas=plan.sigmas,
        trajectory=trajectory,
        batch_size=sampling.batch_size,
        iteration=iteration,
        evaluations=int(counted.sum()) if counted is not None else evaluations_of(sampling, len(samples)),
        left_out=left_out,
        sampling=sampling,
        recommended=left_open,
        behind=behind,
    )


def check_wires(policy: Policy, prompts: PromptSet, computers: Computers) -> None:
    """ValueError where other computers would draw with another model, or would not know the texts."""
    if policy.model is not computers.model:
        raise ValueError(
            "computers: Other Computers was given another MODEL than Create Policy, so the LoRA would be laid over "
            "another model there; wire the same output to both"
        )
    if prompts.carries_pictures:
        raise ValueError("prompts: they carry pictures, which are not sent to other computers; sample them here, with Rollout")
    if prompts.texts is None:
        raise ValueError(
            "prompts: other computers encode the texts themselves, and these were not encoded by Encode Prompts; "
            "wire its output here"
        )


def evaluations_of(sampling: Sampling, images: int) -> int:
    """Of a KSampler, which does not count them."""
    return images * sampling.steps * (1 if sampling.guidance == 1 else 2)


def behind_of(policy: Policy, now: Bank) -> Behind:
    """What samples for this policy where others draw while it is trained: in the first iteration ``now``, itself."""
    before = policy.anchors.get(BEFORE)
    return Behind(0, now) if before is None else Behind(1, before)


def checked(given: Sampling, settled: Sampling) -> Sampling:
    """The settings without random steps. ValueError where the user has asked for what KSampler does not do."""
    if given.transition not in (AUTO, QUIET) and "transition" not in given.open and given.noise_level != 0:
        raise ValueError(
            f"transition: {given.transition} makes random steps, and other computers sample with KSampler, which tells "
            "none; set it to deterministic or auto, or use Rollout"
        )
    if settled.same_start and settled.images_per_prompt > 1:
        raise ValueError("same start: without random steps all images of a prompt would be the same; switch it off")
    return replace(settled, transition=QUIET, noise_level=0.0)
