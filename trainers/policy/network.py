"""The opened policy: the user's network in memory, the bank laid over it, one question answered: ``denoise``."""
from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Callable, Iterator

import comfy.model_management
import comfy.model_sampling
import comfy.patcher_extension
import comfy.samplers
import torch

from ...rewards.half import scaled
from ..paths import EPS, FLOW, V, Path
from ..prompts import PromptSet
from .bank import Overlay, trainable_layers
from .checkpoint import checkpointed, is_mutation_error, mutation_guard, mutates, remember_mutation
from .conditioning import Conditionings
from .value import Bank, Policy
from .weights import freeze_for_autograd, lent

INJECTION = "posttrain_bank"


def path_of(model_sampling) -> Path:
    """How the model mixes data and noise. ValueError for the few kinds that have no trainer yet."""
    kinds = ((comfy.model_sampling.CONST, FLOW), (comfy.model_sampling.V_PREDICTION, V), (comfy.model_sampling.EPS, EPS))
    other = (comfy.model_sampling.EDM, comfy.model_sampling.X0)
    scale = getattr(model_sampling, "sigma_data", 1.0)
    if not isinstance(model_sampling, other) and (scale == 1.0 or isinstance(model_sampling, comfy.model_sampling.CONST)):
        for kind, path in kinds:
            if isinstance(model_sampling, kind):
                return path
    raise ValueError(f"model: its sampling type ({type(model_sampling).__mro__[2].__name__}) cannot be trained yet; "
                     "use a model with noise, v or flow prediction")


def sigmas_of(model_sampling, scheduler: str, steps: int) -> torch.Tensor:
    """Decreasing noise levels of any ComfyUI scheduler, float32 on the CPU: [steps + 1], the last one 0.

    ddim_uniform gives one level more where the steps do not divide the model's own.
    """
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, scheduler, steps).float().cpu().clone()
    if len(sigmas) < 2 or bool((sigmas[1:] >= sigmas[:-1]).any()):
        raise ValueError(f"scheduler: {scheduler!r} with {steps} steps gives noise levels that do not decrease "
                         f"({[round(float(s), 4) for s in sigmas]}); choose another scheduler or more steps")
    return sigmas


class Network:
    """Valid inside ``open_policy`` only.

    path: how the model mixes data and noise; device, dtype: where and in what it computes; evaluations: network calls on
    a sample so far (one per sample and branch of the guidance).
    """

    def __init__(self, patcher, overlay: Overlay, together: tuple = ()):
        self._patcher, self._overlay, self._together = patcher, overlay, (patcher, *together)
        self._model = patcher.model
        self._conditionings: dict[tuple, Conditionings] = {}
        self._prompts: dict[int, PromptSet] = {}
        self._anchors: dict[int, tuple[Bank, Bank]] = {}
        self.sampling = patcher.get_model_object("model_sampling")
        self.path = path_of(self.sampling)
        self.device = patcher.load_device
        self.evaluations = 0
        self.dtype = patcher.model.manual_cast_dtype or patcher.model.get_dtype()

    def sigmas(self, scheduler: str, steps: int) -> torch.Tensor:
        """See ``sigmas_of``."""
        return sigmas_of(self.sampling, scheduler, steps)

    def start(self, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """What pure noise [B, ...] looks like at the first noise level, in the model's own convention."""
        largest = math.isclose(float(self.sampling.sigma_max), sigma, rel_tol=1e-5) or sigma > float(self.sampling.sigma_max)
        level = torch.tensor(sigma, device=noise.device)
        return self.sampling.noise_scaling(level, noise.clone(), torch.zeros_like(noise), largest)

    def to_device(self, bank: Bank, train: bool = False) -> Bank:
        """The bank where the network computes; with ``train`` as leaves that collect gradients."""
        return {k: v.detach().to(self.device, torch.float32, copy=True).requires_grad_(train) for k, v in bank.items()}

    def anchor(self, bank: Bank) -> Bank:
        """The same as ``to_device``, kept for as long as the policy is open: for banks that are asked many times."""
        if id(bank) not in self._anchors:
            self._anchors[id(bank)] = (bank, self.to_device(bank))
        return self._anchors[id(bank)][1]

    def denoise(self, x, sigma, prompts: PromptSet, index, guidance: float, bank: Bank | None, *,
                recompute: bool = False) -> torch.Tensor:
        """The network's estimate of the clean latents.

        x: [B, C, H, W] in the model's own convention; sigma: [B]; prompts: encoded; index: the prompt of each
        sample [B]; guidance: classifier-free guidance scale, 1 evaluates no negative prompt; bank: from
        ``to_device``, or None for the reference policy; recompute: drop activations, one more forward in backward.
        Returns float32 [B, C, H, W]. Gradients reach the bank and x.
        """
        index = tuple(int(i) for i in index)
        conditionings = self._conditionings_for(prompts, tuple(x.shape[1:]))
        guided = not math.isclose(guidance, 1.0)
        if guided and not conditionings.has_negative():
            raise ValueError("prompts: a guidance scale other than 1 needs a negative prompt (it may be empty); "
                             "encode the prompts again, or set the guidance scale to 1")
        self.evaluations += len(index) * (2 if guided else 1)

        def network(weights, x):
            self._overlay.active = None if bank is None else dict(zip(bank, weights))
            try:
                return self._guided(x, sigma, conditionings, index, guidance if guided else None)
            finally:
                self._overlay.active = None

        weights = [] if bank is None else list(bank.values())
        if recompute and torch.is_grad_enabled():
            return checkpointed(network, self._model.diffusion_model, weights, x)
        if torch.is_grad_enabled() and self.dtype == torch.float16:
            return scaled(lambda x, *weights: network(weights, x), x, *weights)
        return network(weights, x) if torch.is_grad_enabled() else self._with_room(lambda: network(weights, x))

    @property
    def diffusion_model(self) -> torch.nn.Module:
        return self._model.diffusion_model

    def alike(self, prompts: PromptSet, index, shape: tuple[int, ...]) -> list[torch.Tensor]:
        """Places in the batch whose prompts go through the network in one call; latents of this shape [C, H, W]."""
        index = tuple(int(i) for i in index)
        batches = self._conditionings_for(prompts, shape).batches(index)
        return [torch.arange(len(index)) if place is None else place for place, _ in batches]

    def recomputing_blocks(self, on: bool) -> None:
        """Whether the network's repeated blocks drop their activations until the backward pass."""
        self._overlay.recompute = on

    def backward_safe(self):
        """The context for forward and backward of this network; see ``gradients`` for the usual way in."""
        return mutation_guard(self._model.diffusion_model)

    def gradients(self, loss_of, leaves: list[torch.Tensor]):
        """Runs ``loss_of() -> (loss, report)`` and its backward; gradients are added to the leaves' ``.grad``.

        A network that overwrites its activations is found out by autograd's own error and run again, guarded. Where memory
        runs out, models that this step does not need are moved out, and it is run again.
        """
        kept = [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves]

        def undo():
            for leaf, gradient in zip(leaves, kept):
                leaf.grad = None if gradient is None else gradient.clone()

        def run():
            with torch.enable_grad(), self.backward_safe():
                loss, report = loss_of()
                loss.backward()
            return loss.detach(), report

        try:
            return self._with_room(run, undo)
        except RuntimeError as error:
            if mutates(self._model.diffusion_model) or not is_mutation_error(error):
                raise
            remember_mutation(self._model.diffusion_model)
        undo()
        return self._with_room(run, undo)

    def _with_room(self, run: Callable, undo: Callable = lambda: None):
        """run(); where memory runs out, once more after the host has moved out what this step does not need."""
        try:
            return run()
        except comfy.model_management.OOM_EXCEPTION:
            if not self._make_room():
                raise
        undo()  # not before here: the exception holds on to the memory of what failed
        return run()

    def _make_room(self) -> bool:
        """Moves every other model off the device: a reward network, a text encoder. False where there is none."""
        management = comfy.model_management
        keep = [m for m in management.current_loaded_models if any(m.model is own for own in self._together)]
        return bool(management.free_memory(1e30, self.device, keep))

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def check_loaded(self, what: str) -> None:
        """RuntimeError where the host moved the network out to make room for ``what``: backward could not go on."""
        if not any(loaded.model is self._patcher for loaded in comfy.model_management.current_loaded_models):
            raise RuntimeError(f"The model, the VAE and {what} do not fit into memory together, which a trainer through "
                               "the reward needs. Lower the batch size or the image size, switch on low memory, or use "
                               "a smaller reward model")

    def _conditionings_for(self, prompts: PromptSet, shape: tuple[int, ...]) -> Conditionings:
        key = (id(prompts), shape)
        if key not in self._conditionings:
            if prompts.positive is None:
                raise ValueError("prompts: they are not encoded yet; put an Encode Prompts node in between")
            self._prompts[id(prompts)] = prompts  # keeps the id from being used again
            self._conditionings[key] = Conditionings(self._model, prompts.positive, prompts.negative, shape, self.device)
        return self._conditionings[key]

    def _guided(self, x, sigma, conditionings: Conditionings, index, guidance: float | None):
        places = conditionings.batches(index)
        if len(places) == 1:
            return self._one_call(x, sigma, places[0][1], conditionings, guidance)
        out = torch.empty_like(x)
        parts = [(place.to(x.device), arguments) for place, arguments in places]
        for place, arguments in parts:
            answer = self._one_call(x[place], sigma[place], arguments, conditionings, guidance)
            out = out.index_copy(0, place, answer.to(out.dtype))
        return out

    def _one_call(self, x, sigma, positive: dict, conditionings: Conditionings, guidance: float | None):
        if guidance is None:
            return self._apply(x, sigma, positive, [0])
        negative = conditionings.negative_batch(len(x))
        if _same_sizes(positive, negative):
            both = {k: _cat(positive[k], negative[k]) for k in positive}
            cond, uncond = self._apply(torch.cat([x, x]), torch.cat([sigma, sigma]), both, [0, 1]).chunk(2)
        else:
            cond = self._apply(x, sigma, positive, [0])
            uncond = self._apply(x, sigma, negative, [1])
        return comfy.samplers.cfg_function(self._model, cond, uncond, guidance, x, sigma, self._patcher.model_options)

    def _apply(self, x, sigma, arguments: dict, branches: list[int]):
        self.check_cancelled()
        options = self._patcher.model_options
        transformer = dict(options.get("transformer_options", {}))
        transformer["wrappers"] = comfy.patcher_extension.copy_nested_dicts(self._patcher.wrappers)
        transformer |= {"cond_or_uncond": branches, "uuids": [uuid.uuid4() for _ in branches], "sigmas": sigma}
        call = {**arguments, "transformer_options": transformer}
        if "model_function_wrapper" in options:
            return options["model_function_wrapper"](
                self._model.apply_model, {"input": x, "timestep": sigma, "c": call, "cond_or_uncond": branches})
        return self._model.apply_model(x, sigma, **call)


def _same_sizes(first: dict, second: dict) -> bool:
    def size(value):
        if isinstance(value, torch.Tensor):
            return tuple(value.shape)
        return [size(v) for v in value] if isinstance(value, list) else value
    return first.keys() == second.keys() and all(size(first[k]) == size(second[k]) for k in first)


def _cat(first, second):
    if isinstance(first, torch.Tensor):
        return torch.cat([first, second])
    return [_cat(a, b) for a, b in zip(first, second)] if isinstance(first, list) else first


REFUSED_OPTIONS = {"sampler_calc_cond_batch_function": "a node that replaces the batch function",
                   "sampler_pre_cfg_function": "a node that changes the guidance before it is combined",
                   "context_handler": "context windows"}


@contextlib.contextmanager
def open_policy(policy: Policy, *, also_load=()) -> Iterator[Network]:
    """Loads the user's model through ComfyUI's memory manager, lays the bank over it, and takes both off again.

    also_load: further ModelPatchers needed at the same time (a VAE, a reward's networks). Inside, autograd works although the
    host runs nodes in inference mode; afterwards the user's MODEL is as it was, also after an error or a cancel.
    """
    for key, what in REFUSED_OPTIONS.items():
        if policy.model.model_options.get(key):
            raise ValueError(f"model: it carries {what} ({key}), which cannot be trained through; connect the model "
                             "from before that node")
    patcher = policy.model.clone(disable_dynamic=True) if _has_dynamic(policy.model) else policy.model.clone()
    diffusion_model = patcher.model.diffusion_model
    overlay = Overlay(diffusion_model, trainable_layers(diffusion_model, policy.recipe), policy.recipe.scale)
    # the same mode as a sampler node loads in: the host updates inference tensors in place while it patches
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patcher, *also_load])
    with torch.inference_mode(False), torch.no_grad(), lent(patcher.model, *(each.model for each in also_load)):
        freeze_for_autograd(patcher.model)
        overlay.inject()
        patcher.model.current_patcher = patcher
        try:
            yield Network(patcher, overlay, tuple(also_load))
        finally:
            overlay.eject()


def _has_dynamic(model) -> bool:
    import inspect
    return "disable_dynamic" in inspect.signature(model.clone).parameters
