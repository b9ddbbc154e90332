"""All images of an iteration, drawn by other ComfyUIs: what goes to each of them, who draws what, and what comes back."""

from __future__ import annotations

import contextlib
import hashlib
import math
import uuid
from collections.abc import Callable
from dataclasses import replace

import safetensors.torch
import torch

from ...rewards.base.words import shown, unwritable
from ..policy.export import lora_state_dict
from ..policy.latents import from_latent_socket, to_latent_socket
from ..policy.value import Bank, Policy
from ..prompts import PromptSet
from ..sampling.draws import chosen_samples
from ..sampling.settings import Sampling
from . import client as api
from .actors import client_of
from .client import EMPTY, Client, Form, Lost, Unfit
from .computers import Computers, Drawn, Part
from .graph import SAVED, Graph, Settings, group_graph
from .share import Share, Worker
from .work import run

LATENT, VERSION = "latent_tensor", "latent_format_version_0"  # as the host's SaveLatent and LoadLatent call them
HEADER = 8 << 20  # bytes of a latent's file beside its numbers: SaveLatent writes the graph there
KEPT = 2  # LoRAs that stay on a server: one that it may still hold open, and the one before
LATENTS = "latents"  # among what comes back: [images, C, H, W], of the model's own space

Told = Callable[[int, int, torch.Tensor], None]  # images there, all, the newest one's latent [1, C, H, W]


class Drawing:
    """By KSamplers, a prompt's images at a time. each: images of a task; form, name: the weights as they are sent; largest:
    bytes that may come back of a task."""

    each: int
    form: Form
    name: str
    largest: int

    def __init__(
        self,
        policy: Policy,
        bank: Bank,
        prompts: PromptSet,
        sampling: Sampling,
        computers: Computers,
        shape: tuple[int, ...],
        iteration: int,
    ):
        """bank: of the policy, what samples."""
        self.policy, self.prompts, self.computers, self.sampling = policy, prompts, computers, sampling
        self.iteration = iteration
        self._settle(bank, shape)

    def _settle(self, bank: Bank, shape: tuple[int, ...]) -> None:
        """Which samples, and what is sent for them. shape: of a latent."""
        policy, sampling, computers = self.policy, self.sampling, self.computers
        self.samples = chosen_samples(len(self.prompts), sampling, self.iteration)
        self.socket = tuple(to_latent_socket(policy.model, torch.zeros(1, *shape))["samples"].shape)
        self.each = sampling.images_per_prompt
        self.largest = 8 * self.each * math.prod(self.socket) + HEADER
        content = safetensors.torch.save(lora_state_dict(replace(policy, bank=bank), False, computers.precision))
        self.name = f"posttrain_{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        self.form = api.lora_form(self.name, content)
        empty = safetensors.torch.save({LATENT: torch.zeros(self.socket), VERSION: torch.tensor([])})
        empty_name = f"posttrain_{'x'.join(map(str, self.socket))}.latent"
        self.empty = Form(empty_name, empty, "input")
        self.settings = Settings(computers.sampler, sampling.scheduler, sampling.steps, sampling.guidance, empty_name)

    def same_as(self, other: Drawing) -> bool:
        """Whether both give the same images."""
        return self.prompts is other.prompts and (self.name, self.iteration, self.sampling) == (
            other.name,
            other.iteration,
            other.sampling,
        )

    def drawn(self, look: Callable[[], None], told: Told) -> Drawn:
        """look: called all the time, raises where nobody waits any more. RewardUnavailable where every computer is lost."""
        workers = [self._worker(client_of(address)) for address in self.computers.addresses]
        share = Share(workers, math.ceil(len(self.samples) / self.each), self.computers.seconds)
        parts = share.results(look, lambda done: told(*self._news(done)))
        return Drawn(
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, share.busy(), tuple(share.lost().items())
        )

    def _news(self, done: dict[int, Part]) -> tuple[int, int, torch.Tensor]:
        newest = next(reversed(done.values()))
        return min(len(done) * self.each, len(self.samples)), len(self.samples), newest[LATENTS][:1]

    def _worker(self, client: Client) -> Worker[Part]:
        stored: dict[str, str] = {}

        def prepare(stopped: Callable[[], bool]) -> None:
            stored.update(self._ready(client))

        def do(task: int, stopped: Callable[[], bool]) -> Part:
            return self._part(client, self._graph(stored, task), task, stopped)

        return Worker(client.url, prepare, do)

    def _ready(self, client: Client) -> dict[str, str]:
        """Sends what all tasks need. -> the names that it has there."""
        stored = {"latent": client.upload(self.empty)}
        stored["lora"] = client.upload(self.form) if self._known(client) else api.send_lora(client, self.form)
        self._clear(client, stored["lora"], "output", api.LORAS)
        return stored

    def _known(self, client: Client) -> bool:
        """Whether it has had weights of ours: it was looked at then, and what it has lost since it says of the graph."""
        return bool(self.computers.sent.get(client.url))

    def _clear(self, client: Client, newest: str, kind: str, folder: str = "") -> None:
        """Older weights of ours become empty files: no route of a ComfyUI takes one away."""
        sent = self.computers.sent.setdefault(client.url, [])
        sent[:] = [*(name for name in sent if name != newest), newest]
        for old in sent[:-KEPT]:
            # a server that still holds it open may refuse: the next time, then
            with contextlib.suppress(Lost, Unfit):
                client.upload(Form(old, EMPTY, kind, folder, overwrite=True))
                sent.remove(old)

    def _graph(self, stored: dict[str, str], group: int) -> Graph:
        rows = range(group * self.each, (group + 1) * self.each)
        prompt = self.prompts.prompts[int(self.samples.index[rows[0]])]
        assert self.prompts.texts is not None
        seeds = [int(self.samples.seeds[row]) for row in rows]
        settings = replace(self.settings, latent=stored["latent"])
        return group_graph(
            self.computers.source, stored["lora"], prompt.text, self.prompts.texts, seeds, settings, uuid.uuid4().hex
        )

    def _part(self, client: Client, graph: Graph, task: int, stopped: Callable[[], bool]) -> Part:
        place = place_of(run(client, graph, stopped, self.computers.seconds))
        found = self._read(client.file(place, self.largest), task)
        with contextlib.suppress(Lost, Unfit):  # nobody needs them there any more, and no route takes a file away
            client.upload(Form(place["filename"], EMPTY, "output", place["subfolder"], overwrite=True))
        return found

    def _read(self, content: bytes, task: int) -> Part:
        latents = read_latents(content, (self.each, *self.socket[1:]))
        words = "the other computers must load the same model as this one"
        return {LATENTS: from_latent_socket(self.policy.model, {"samples": latents}, "computers", words)}


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
