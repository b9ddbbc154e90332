"""The opened policy: the user's network in memory, the bank laid over it, one question answered: ``denoise``."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import comfy.model_management
import torch

from ...rewards.base.half import scaled
from ...rewards.learned.holder import in_words, load_models
from ..prompts import PromptSet
from .bank import Overlay, guest_key, members_of, trainable_layers
from .checkpoint import checkpointed, mended, mutation_guard, remember_plain
from .conditioning import Conditionings
from .frozen import frozen_layers
from .gradients import collect, gradients_of
from .guider import Guider, host_guider
from .headroom import Headroom
from .kernels import kernels_with_gradient
from .levels import path_of, sigmas_of
from .loading import is_loaded, load_together, too_large
from .patches import check_model
from .precision import share_shown
from .remedies import Remedies
from .room import WHOLE, Room
from .shared_weights import cancelled_on_all, in_ram, shared_out
from .steady import check_steady
from .uploads import uploaded
from .value import REFERENCE, Bank, Guest, Policy
from .weights import freeze_for_autograd, lent


class Network:
    """Valid inside ``open_policy`` only.

    path: how the model mixes data and noise; device, dtype: where and in what it computes; evaluations: network calls on a
    sample so far (one per branch of the guidance); room: what memory took; guests: further banks, in place of the policy's.
    """

    def __init__(self, patcher, overlay: Overlay, together: tuple = (), users=None, room: Room = WHOLE):
        """users: the MODEL that patcher is a clone of."""
        self._patcher, self._overlay, self._together = patcher, overlay, (patcher, *together)
        self._users = users
        self._remedies = Remedies(overlay, room, patcher.load_device, lambda: self._together)
        self._model = patcher.model
        self._conditionings: dict[tuple, Conditionings] = {}
        self._prompts: dict[int, PromptSet] = {}
        self._anchors: dict[int, tuple[Bank, Bank]] = {}
        self._guider: Guider  # open_policy gives it, and the next
        self._until_closed: contextlib.ExitStack
        self.sampling = patcher.get_model_object("model_sampling")
        self.path = path_of(self.sampling)
        self.device = patcher.load_device
        self._sigma_max = float(self.sampling.sigma_max)
        self.evaluations = 0
        self.guests: tuple[Bank, ...] = ()
        self.dtype = patcher.model.manual_cast_dtype or patcher.model.get_dtype()
        self.headroom = Headroom(self.dtype)

    @property
    def room(self) -> Room:
        return self._remedies.room

    def sigmas(self, scheduler: str, steps: int) -> torch.Tensor:
        """See ``sigmas_of``."""
        return sigmas_of(self.sampling, scheduler, steps)

    def start(self, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """What pure noise [B, ...] looks like at the first noise level, in the model's own convention."""
        largest = math.isclose(self._sigma_max, sigma, rel_tol=1e-5) or sigma > self._sigma_max
        return self.sampling.noise_scaling(torch.tensor(sigma).to(noise.device), noise.clone(), torch.zeros_like(noise), largest)

    def to_device(self, bank: Bank, train: bool = False) -> Bank:
        """The bank where the network computes; with ``train`` as leaves that collect gradients."""
        return {k: v.detach().to(self.device, torch.float32, copy=True).requires_grad_(train) for k, v in bank.items()}

    def anchor(self, bank: Bank) -> Bank:
        """The same as ``to_device``, kept for as long as the policy is open: for banks that are asked many times."""
        if id(bank) not in self._anchors:
            self._anchors[id(bank)] = (bank, self.to_device(bank))
        return self._anchors[id(bank)][1]

    def denoise(self, x, sigma, prompts: PromptSet, index, guidance: float, bank: Bank | None, *,
                recompute: bool = False, schedule: torch.Tensor | None = None) -> torch.Tensor:
        """The network's estimate of the clean latents, by the host's own way from a sampler to the network.

        x: [B, C, H, W] in the model's own convention; sigma: [B]; prompts: encoded; index: the prompt of each
        sample [B]; guidance: classifier-free guidance scale, 1 evaluates no negative prompt; bank: from
        ``to_device``, or None for the reference policy; recompute: drop activations, one more forward in backward;
        schedule: [steps + 1] the sampler's noise levels, which nodes on the model may read.
        Returns float32 [B, C, H, W]. Gradients reach the bank and x.
        """
        index = tuple(int(i) for i in index)
        negative = self._conditionings_for(prompts, tuple(x.shape[1:])).has_negative()
        if self._guider.needs_negative(guidance) and not negative:
            raise ValueError("prompts: a guidance scale other than 1, or a node on the model that wants guidance, needs a "
                             "negative prompt (it may be empty); encode the prompts again, or set the guidance scale to 1")

        def ask(x, sigma, conds):
            return self._guider.guided(x, sigma, conds, guidance, schedule)

        before = self.evaluations
        if self._guider.patched:
            check_steady(self._users, lambda x, sigma: self._guided(x, sigma, prompts, index, ask), x.detach(), sigma,
                         guidance, schedule)
            self.evaluations = before

        def answer():
            parts = self._remedies.parts(len(x))
            if len(parts) == 1:
                return self._answer(x, sigma, prompts, index, ask, bank, recompute)
            return torch.cat([self._answer(x[rows], sigma[rows], prompts, index[rows], ask, bank, True) for rows in parts])

        forget = partial(setattr, self, "evaluations", before)
        return answer() if torch.is_grad_enabled() else self._remedies.tried(answer, forget)

    def _answer(self, x, sigma, prompts: PromptSet, index, ask: Callable, bank: Bank | None, recompute: bool) -> torch.Tensor:
        """``denoise`` of samples that go through the network together."""
        def network(weights, x):
            self._overlay.active = None if bank is None else dict(zip(bank, weights))
            try:
                return self._guided(x, sigma, prompts, index, ask)
            finally:
                self._overlay.active = None

        weights = [] if bank is None else list(bank.values())
        if recompute and torch.is_grad_enabled():
            return checkpointed(self._once(network), self._model.diffusion_model, weights, x, largest=self.headroom.factor)
        if torch.is_grad_enabled() and self.dtype == torch.float16:
            return scaled(lambda x, *weights: network(weights, x), x, *weights, largest=self.headroom.factor)
        return network(weights, x)

    def conditional(self, x: torch.Tensor, sigma: torch.Tensor, prompts: PromptSet, index) -> torch.Tensor:
        """The reference network's answer to the prompts alone, without guidance; see ``denoise``."""
        def run():
            return self._guided(x, sigma, prompts, tuple(int(i) for i in index), self._guider.conditional)

        return run() if torch.is_grad_enabled() else self._remedies.tried(run)

    @property
    def diffusion_model(self) -> torch.nn.Module:
        return self._model.diffusion_model

    def alike(self, prompts: PromptSet, index, x: torch.Tensor, sigma: torch.Tensor) -> list[torch.Tensor]:
        """Places in the batch whose samples go through the network in one call; x: [B, C, H, W], sigma: [B]."""
        places = [place for place, _ in self._groups(prompts, tuple(int(i) for i in index), tuple(x.shape[1:]), sigma)]
        whole = [torch.arange(len(index)) if place is None else place for place in places]
        return [place[rows] for place in whole for rows in self._remedies.parts(len(place))]

    def share_shown(self, bank: Bank) -> float:
        """How much of this bank's effect shows in the precision in which the network computes, see precision.py."""
        return share_shown(self._overlay.layers, bank, self._overlay.members, self.dtype)

    @property
    def blocks(self) -> int:
        """How many repeated blocks the network has."""
        return len(self._overlay.blocks)

    @property
    def recomputes(self) -> bool:
        """Whether any of them drops its activations."""
        return bool(self._overlay.recompute)

    def recomputing_blocks(self, on: bool | int) -> None:
        """Whether the network's repeated blocks drop their activations until the backward pass: all, none, or the first so many.

        Each costs one forward of it more and saves what it keeps, so as many as must is quickest; it is what
        ``room`` says at least.
        """
        self._overlay.recompute_share(self.room.recompute, on)

    def backward_safe(self):
        """The context for forward and backward of this network; see ``gradients`` for the usual way in."""
        return mutation_guard(self._model.diffusion_model)

    def gradients(self, loss_of, leaves: list[torch.Tensor]):
        """Runs ``loss_of() -> (loss, report)`` and its backward; gradients are added to the leaves' ``.grad``.

        A network that overwrites its activations is found out by autograd's own error and run again, guarded. Where memory
        runs out it is run again after each of the ``Remedies``; ``room`` keeps what it took.
        """
        def run():
            with torch.enable_grad(), self.backward_safe():
                loss, report = loss_of()
                found = gradients_of(loss, leaves)
            remember_plain(self._model.diffusion_model)
            return loss.detach(), report, found

        while True:
            try:
                loss, report, found = self._remedies.tried(run, training=True)
                break
            except RuntimeError as error:
                if not mended(error, self._model.diffusion_model):
                    raise
        collect(found, leaves)
        return loss, report

    def check_cancelled(self) -> None:
        cancelled_on_all()
        comfy.model_management.throw_exception_if_processing_interrupted()

    def check_loaded(self, what: str) -> None:
        """RuntimeError where the host moved the network out to make room for ``what``: backward could not go on."""
        if not is_loaded(self._patcher):
            raise RuntimeError(too_large(self._patcher, self._together[1:], what))

    def _conditionings_for(self, prompts: PromptSet, shape: tuple[int, ...]) -> Conditionings:
        key = (id(prompts), shape)
        if key not in self._conditionings:
            if prompts.positive is None:
                raise ValueError("prompts: they are not encoded yet; put an Encode Prompts node in between")
            self._prompts[id(prompts)] = prompts  # keeps the id from being used again
            found = Conditionings(self._model, prompts, shape, self.device)
            self._take_along(found.further_models())
            self._until_closed.callback(found.cleanup)
            self._conditionings[key] = found
        return self._conditionings[key]

    def _take_along(self, patchers: list) -> None:
        """Loads further models for as long as the policy is open; gradients pass through them."""
        new = [patcher for patcher in patchers if not any(patcher is own for own in self._together)]
        if not new:
            return
        with torch.inference_mode():  # as a sampler node loads
            load_models([*self._together, *new])
        for patcher in new:
            self._until_closed.enter_context(lent(patcher.model))
            freeze_for_autograd(patcher.model)
            self._until_closed.enter_context(frozen_layers(patcher.model))
        self._together += tuple(new)
        self.check_loaded("the ControlNet")

    def _guided(self, x, sigma, prompts: PromptSet, index, ask: Callable):
        """ask(x, sigma, conds) of each group of samples that go through the network together, put in their order."""
        if len(parts := self._groups(prompts, index, tuple(x.shape[1:]), sigma)) == 1:
            return ask(x, sigma, parts[0][1])
        out = torch.empty_like(x)
        for place, conds in [(uploaded(place, x.device), conds) for place, conds in parts]:
            out = out.index_copy(0, place, ask(x[place], sigma[place], conds).to(out.dtype))
        return out

    def _groups(self, prompts: PromptSet, index, shape: tuple[int, ...], sigma: torch.Tensor):
        conditionings = self._conditionings_for(prompts, shape)
        # what nodes and timed prompts do depends on the noise level, and the host has one in a call
        by_level = self._guider.patched or conditionings.placed(index)
        return conditionings.groups(index, tuple(sigma.tolist()) if by_level else None)

    def _on_call(self, samples: int) -> None:
        self.check_cancelled()
        self.evaluations += samples

    def _once(self, network: Callable) -> Callable:
        """network, whose evaluations count in its first pass only: those of a backward pass are recomputation."""
        replays = False

        def run(weights, x):
            nonlocal replays
            before = self.evaluations
            answer = network(weights, x)
            if replays:
                self.evaluations = before
            replays = True
            return answer
        return run


@contextlib.contextmanager
def open_policy(policy: Policy, *, also_load=(), guests: Sequence[Guest] = (), room: Room = WHOLE) -> Iterator[Network]:
    """Loads the user's model through ComfyUI's memory manager, lays the bank over it, and takes both off again.

    also_load: further ModelPatchers needed at the same time (a VAE, a reward's networks); guests: further weights for the
    same model, then ``Network.guests``; room: what is given up from the start, see ``in_room``. Inside, autograd works although
    the host runs nodes in inference mode; afterwards the user's MODEL is as it was, also after an error or a cancel.
    """
    check_model(policy.model)
    patcher = policy.model.clone()
    diffusion_model = patcher.model.diffusion_model
    beside = [*patcher.get_nested_additional_models(), *patcher.model_patches_models()]
    layers = trainable_layers(diffusion_model, policy.recipe)
    overlay = Overlay(diffusion_model, layers, members_of(layers, policy.recipe), [guest.members for guest in guests])
    with in_words():
        # the same mode as a sampler node loads in: the host updates inference tensors in place while it patches
        with torch.inference_mode():
            load_together(patcher, (*beside, *also_load), in_ram(room))
        models = [each.model for each in (patcher, *beside, *also_load)]
        with torch.inference_mode(False), torch.no_grad(), lent(*models), kernels_with_gradient():
            for loaded in (patcher, *beside):
                freeze_for_autograd(loaded.model)
            net = Network(patcher, overlay, (*beside, *also_load), policy.model, room)
            net.guests = tuple(net.to_device({guest_key(number, key): weight for key, weight in guest.bank.items()})
                               for number, guest in enumerate(guests))
            if REFERENCE in policy.anchors:
                overlay.reference = net.to_device(policy.anchors[REFERENCE])
            with (contextlib.ExitStack() as net._until_closed, host_guider(patcher, net._on_call) as net._guider,
                  overlay.in_place(), shared_out(diffusion_model, overlay.blocks.values(), patcher.load_device)):
                yield net
