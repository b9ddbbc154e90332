"""A rollout that other ComfyUIs sample: the policy goes to them, latents come back and are decoded here.

They sample with KSampler, for trainers that learn from finished images; or, where they have this pack, as Rollout does,
with random steps and their likelihoods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ...rewards.base import beside, ranks
from ...rewards.base.stopwatch import SAMPLERS, SAMPLING, note, timed
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
from .computers import AFTER, DURING, OWN_STEPS, Computers, Drawn
from .drawing import LATENTS, Drawing
from .steps import EVALUATIONS, StepsDrawing, random_steps

QUIET = "deterministic"


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
    missed: Callable[[str, str], None] | None = None,
) -> Rollout:
    """Prompts, images and first noise of ``sampling.rollout.rollout``, without random steps and by KSampler, or as there.

    progress: called with (images there, all, the last task's first one [1, C, H, W]); missed: with a computer whose images others
    drew, and why. ValueError names the input that does not fit; RewardUnavailable where every computer is lost.
    """
    left_open, own = sampling.open, computers.sampler == OWN_STEPS
    sampling = settled_sampling(policy, sampling) if own else checked(sampling, settled_sampling(policy, sampling))
    check_wires(policy, prompts, computers)
    samples = chosen_samples(len(prompts), sampling, iteration)
    shape = latent_shape(policy.model, vae, sampling.width, sampling.height)
    plan = plan_of(ModelLevels(policy.model), sampling, iteration)
    room = image_bytes(vae, (1, *shape))
    say_and_check(rollout_need(shape, sampling, len(prompts), plan.noisy[1] - plan.noisy[0], keep_means, room), tell)

    def drawing(bank: Bank, iteration: int) -> Drawing:
        given = (policy, bank, prompts, sampling, computers, shape, iteration)
        return StepsDrawing(*given, keep_means=keep_means) if own else Drawing(*given)

    now, sampler, behind = who_samples(policy, computers.when)
    drawn = ranks.of_first(
        "latents of other computers",
        lambda: computers.ahead.result(drawing(sampler, iteration), cancel_point, progress or nothing),
    )
    told_of(drawn, missed or nothing)
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
        evaluations=evaluations_of(sampling, len(samples)) if counted is None else int(counted.sum()),
        left_out=left_out,
        sampling=sampling,
        recommended=left_open,
        behind=behind,
    )


def told_of(drawn: Drawn, missed: Callable[[str, str], None]) -> None:
    note(SAMPLERS, drawn.busy)
    for name, why in drawn.lost:
        missed(name, why)


def nothing(*_: object) -> None:
    """For who is not told."""


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


def who_samples(policy: Policy, when: str) -> tuple[Bank, Bank, Behind | None]:
    """-> the newest weights, those that sample, and how far these are behind: where others draw while the policy is trained they
    are those before the last train step, in the first iteration the newest themselves."""
    now: Bank = policy.chosen("behaviour") or policy.bank
    if when == AFTER:
        return now, now, None
    before = policy.anchors.get(BEFORE)
    behind = Behind(0, now) if before is None else Behind(1, before)
    return now, behind.bank, behind


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
