"""The host's own way from noisy latents to the guided denoised ones, opened once for any number of questions.

KSampler asks ``comfy.samplers.CFGGuider`` at every step; the policy asks the same object. Whatever nodes have put on the
MODEL (patches, wrappers, callbacks, cfg functions) runs where the host runs it, and none of it is repeated here.
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch

from .attention import OVERRIDE, GradientAttention
from .bypass import cuts_named
from .conditioning import Conds
from .levels import as_asked
from .uploads import uploaded


class Guider:
    """patched: whether nodes have put anything on the MODEL that runs in a call, and may read its noise level."""

    def __init__(self, patcher, on_call: Callable[[int], None]):
        """on_call(samples) is told before every call of the network; it may raise to stop it."""
        self.patched = _is_patched(patcher)
        self._sampling = patcher.get_model_object("model_sampling")
        options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(patcher, {}, options)
        self._host = comfy.samplers.CFGGuider(patcher)
        self._host.inner_model, self._host.model_options, self._options = patcher.model, options, options
        transformer = options["transformer_options"]
        transformer[OVERRIDE] = GradientAttention(transformer.get(OVERRIDE))

        def counted(executor, x, *args, **kwargs):
            on_call(len(x))
            return executor(x, *args, **kwargs)

        comfy.patcher_extension.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.APPLY_MODEL, "posttrain", counted, options, is_model_options=True)

    def needs_negative(self, guidance: float) -> bool:
        """Whether the host evaluates the negative prompt at this guidance scale."""
        return not math.isclose(guidance, 1.0) or bool(self._options.get("disable_cfg1_optimization"))

    def guided(self, x: torch.Tensor, sigma: torch.Tensor, conds: Conds, guidance: float,
               schedule: torch.Tensor | None) -> torch.Tensor:
        """The denoised latents as KSampler gets them. schedule: its noise levels, for nodes that read them."""
        self._host.conds = conds
        self._host.set_cfg(guidance)
        with _schedule_in_words():
            return self._host(as_asked(self._sampling, x, sigma), sigma, self._with_schedule(schedule, x.device), None)

    def conditional(self, x: torch.Tensor, sigma: torch.Tensor, conds: Conds) -> torch.Tensor:
        """The network's answer to the positive prompt alone, before any guidance."""
        with _schedule_in_words():
            x = as_asked(self._sampling, x, sigma)
            return comfy.samplers.calc_cond_batch(self._host.inner_model, [conds["positive"]], x, sigma, self._options)[0]

    def _with_schedule(self, schedule: torch.Tensor | None, device) -> dict:
        if schedule is None:
            return self._options
        transformer = {**self._options["transformer_options"], "sample_sigmas": uploaded(schedule, device)}
        return {**self._options, "transformer_options": transformer}


@contextlib.contextmanager
def host_guider(patcher, on_call: Callable[[int], None]) -> Iterator[Guider]:
    """What the host does around a sampling: callbacks before and after it, patches where the network computes."""
    model, before = patcher.model, getattr(patcher.model, "current_patcher", None)
    guider = Guider(patcher, on_call)
    with _branches_together(model), cuts_named(model.diffusion_model):
        try:
            comfy.samplers.cast_to_load_options(guider._options, device=patcher.load_device, dtype=patcher.model_dtype())
            patcher.pre_run()
            yield guider
        finally:
            patcher.cleanup()
            comfy.samplers.cast_to_load_options(guider._options, device=patcher.offload_device)
            patcher.restore_hook_patches()
            model.current_patcher = before


@contextlib.contextmanager
def _branches_together(model) -> Iterator[None]:
    """The host cuts a call in two where little memory is free; then rollout and train step would differ in their last
    digits, and the first ratio would not be 1. Told that a call needs no memory, it never does."""
    own = vars(model).get("memory_required")
    model.memory_required = lambda *_, **__: 0
    try:
        yield
    finally:
        vars(model).pop("memory_required")
        if own is not None:
            model.memory_required = own


@contextlib.contextmanager
def _schedule_in_words() -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        if error.args != ("sample_sigmas",):
            raise
        raise ValueError("model: a node on it reads the noise levels of the whole sampling (sample_sigmas), which there are "
                         "none of in this task; connect the model from before that node") from error


def _is_patched(patcher) -> bool:
    options = {k: v for k, v in patcher.model_options.items() if v}
    return bool(options) or bool(patcher.wrappers) or bool(patcher.callbacks)
