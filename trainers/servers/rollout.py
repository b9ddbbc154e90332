"""A rollout that other ComfyUIs sample: the policy goes to them as a LoRA, latents come back and are decoded here.

They sample with KSampler, so there are no random steps and no likelihoods: for trainers that learn from finished images.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch

from ...rewards.base import ranks
from ...rewards.base.stopwatch import SAMPLERS, SAMPLING, note, timed
from ...rewards.base.words import brief, shown, unwritable
from ...rewards.learned.holder import cancel_point
from ..policy.export import lora_state_dict
from ..policy.latents import from_latent_socket, image_bytes, latent_shape, to_latent_socket
from ..policy.levels import sigmas_of
from ..policy.value import Policy
from ..prompts import PromptSet
from ..sampling.draws import Samples, chosen_samples
from ..sampling.need import Need, rollout_need
from ..sampling.recommended import settled_sampling
from ..sampling.rollout import Progress, Rollout, pictures, say_and_check
from ..sampling.settings import AUTO, Sampling
from . import client as api
from .actors import client_of
from .client import Client, Lost, Unfit
from .graph import SAVED, Settings, Source, group_graph
from .share import Share, Worker

QUIET = "deterministic"
LATENT, VERSION = "latent_tensor", "latent_format_version_0"  # as the host's SaveLatent and LoadLatent call them
HEADER = 8 << 20  # bytes of a latent's file beside its numbers: SaveLatent writes the graph there
KEPT = 2  # LoRAs that stay on a server: one that it may still hold open, and the one before
EMPTY = safetensors.torch.save({})


@dataclass(frozen=True)
class Computers:
    """Other ComfyUIs. addresses: of each, up to the first route; model: the MODEL that they make, too, as ``source`` says;
    sampler: of KSampler; precision: of the LoRA that they get; seconds: for which one of them may sit on a prompt's images."""

    addresses: tuple[str, ...]
    model: Any
    source: Source
    sampler: str = "euler"
    precision: str = "float32"
    seconds: float = 600.0
    sent: dict[str, list[str]] = field(default_factory=dict, compare=False, repr=False)  # LoRAs on each, the newest last
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
            api.check_nodes(client, self.source.kinds())
            api.check_files(client, self.source.files)
            api.send_lora(client, "posttrain.safetensors", EMPTY)
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
    progress: Progress | None = None,
    tell: Callable[[Need], None] | None = None,
) -> Rollout:
    """Prompts, images and first noise of ``sampling.rollout.rollout``, without random steps and by KSampler; see there.

    progress: called with (images there, all, the last prompt's first one [1, C, H, W]). Raises ValueError naming the input that
    does not fit, RewardUnavailable where every computer is lost.
    """
    left_open, sampling = sampling.open, checked(sampling, settled_sampling(policy, sampling))
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
    samples = chosen_samples(len(prompts), sampling, iteration)
    shape = latent_shape(policy.model, vae, sampling.width, sampling.height)
    say_and_check(rollout_need(shape, sampling, len(prompts), 0, False, image_bytes(vae, (1, *shape))), tell)
    sigmas = sigmas_of(policy.model.get_model_object("model_sampling"), sampling.scheduler, sampling.steps)
    latents = ranks.of_first(
        "latents of other computers", lambda: _Drawing(policy, prompts, samples, sampling, computers, shape, progress).latents()
    )
    steps = len(samples) * sampling.steps * (1 if sampling.guidance == 1 else 2)
    return Rollout(
        latents=latents,
        images=pictures(policy.model, vae, latents),
        prompts=prompts,
        index=samples.index,
        seeds=samples.seeds,
        guidance=sampling.guidance,
        sigmas=sigmas,
        trajectory=None,
        batch_size=sampling.batch_size,
        iteration=iteration,
        evaluations=steps,
        sampling=sampling,
        recommended=left_open,
    )


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


class _Drawing:
    """All samples of a rollout, a prompt's at a time."""

    def __init__(
        self,
        policy: Policy,
        prompts: PromptSet,
        samples: Samples,
        sampling: Sampling,
        computers: Computers,
        shape: tuple[int, ...],
        progress: Progress | None,
    ):
        self.policy, self.prompts, self.samples, self.computers, self.progress = policy, prompts, samples, computers, progress
        self.socket = tuple(to_latent_socket(policy.model, torch.zeros(1, *shape))["samples"].shape)
        self.each = sampling.images_per_prompt
        self.largest = 8 * self.each * math.prod(self.socket) + HEADER
        behaviour = policy.chosen("behaviour") or policy.bank
        self.lora = safetensors.torch.save(lora_state_dict(replace(policy, bank=behaviour), False, computers.precision))
        self.lora_name = f"posttrain_{hashlib.sha256(self.lora).hexdigest()[:16]}.safetensors"
        self.empty_name = f"posttrain_{'x'.join(map(str, self.socket))}.latent"
        self.settings = Settings(computers.sampler, sampling.scheduler, sampling.steps, sampling.guidance, self.empty_name)

    def latents(self) -> torch.Tensor:
        """[B, C, H, W] clean, of the model's own space."""
        workers = [self._worker(client_of(address)) for address in self.computers.addresses]
        groups = len(self.samples) // self.each
        share = Share(workers, groups, self.computers.seconds)
        found = share.results(cancel_point, self._told)
        note(SAMPLERS, share.busy())
        return self._in_model_space(torch.cat(found))

    def _worker(self, client: Client) -> Worker[torch.Tensor]:
        stored = {}

        def prepare(stopped: Callable[[], bool]) -> None:
            empty = safetensors.torch.save({LATENT: torch.zeros(self.socket), VERSION: torch.tensor([])})
            stored["latent"] = client.upload(self.empty_name, empty, "input")
            stored["lora"] = api.send_lora(client, self.lora_name, self.lora)
            self._clear(client, stored["lora"])

        def do(group: int, stopped: Callable[[], bool]) -> torch.Tensor:
            return self._group(client, stored["lora"], replace(self.settings, latent=stored["latent"]), group, stopped)

        return Worker(client.url, prepare, do)

    def _clear(self, client: Client, newest: str) -> None:
        """Older LoRAs of ours become empty files: no route of a ComfyUI takes one away."""
        sent = self.computers.sent.setdefault(client.url, [])
        sent[:] = [*(name for name in sent if name != newest), newest]
        for old in sent[:-KEPT]:
            # a server that still holds it open may refuse: the next time, then
            with contextlib.suppress(Lost, Unfit):
                client.upload(old, EMPTY, "output", api.LORAS, overwrite=True)
                sent.remove(old)

    def _group(self, client: Client, lora: str, settings: Settings, group: int, stopped: Callable[[], bool]) -> torch.Tensor:
        """[images of a prompt, C, H, W], as the socket LATENT has them."""
        rows = range(group * self.each, (group + 1) * self.each)
        prompt = self.prompts.prompts[int(self.samples.index[rows[0]])]
        assert self.prompts.texts is not None
        graph = group_graph(
            self.computers.source,
            lora,
            prompt.text,
            self.prompts.texts,
            [int(self.samples.seeds[row]) for row in rows],
            settings,
            uuid.uuid4().hex,
        )
        place = place_of(api.run(client, graph, stopped, self.computers.seconds))
        found = read_latents(client.file(place, self.largest), (self.each, *self.socket[1:]))
        with contextlib.suppress(Lost, Unfit):  # nobody needs them there any more, and no route takes a file away
            client.upload(place["filename"], EMPTY, "output", place["subfolder"], overwrite=True)
        return found

    def _in_model_space(self, latents: torch.Tensor) -> torch.Tensor:
        return from_latent_socket(
            self.policy.model, {"samples": latents}, "computers", "the other computers must load the same model as this one"
        )

    def _told(self, done: dict[int, torch.Tensor]) -> None:
        if self.progress is not None:
            newest = self._in_model_space(list(done.values())[-1][:1])
            self.progress(self.each * len(done), len(self.samples), newest)


def place_of(outputs: dict) -> dict[str, str]:
    """Where SaveLatent has put its file. Lost where that is not what it says."""
    try:
        place = outputs[SAVED]["latents"][0]
        names = {key: str(place[key]) for key in ("filename", "subfolder")}
    except (KeyError, TypeError, IndexError) as error:
        raise Lost("it has run the graph, but names no latents") from error
    if any(unwritable(name) or '"' in name for name in names.values()):
        raise Lost("it names its latents as no file can be called")
    return names


def read_latents(content: bytes, shape: tuple[int, ...]) -> torch.Tensor:
    """A file of SaveLatent, float32. Lost where it is none, or of another shape: what comes by wire is no one's word for it."""
    try:
        found = safetensors.torch.load(content)[LATENT]
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise Lost(f"what it gives for latents are none ({shown(str(error), 100)})") from error
    if tuple(found.shape) != shape or not found.is_floating_point():
        raise Lost(f"its latents are {list(found.shape)} and not {list(shape)}; it must load the same model as this computer")
    return found.float()
