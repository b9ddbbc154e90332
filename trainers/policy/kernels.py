"""The host's kernels without a gradient, switched off by the host's own switch while a policy is open."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import comfy.model_management as management


@contextlib.contextmanager
def kernels_with_gradient() -> Iterator[None]:
    """On hosts that have ``in_training``, it is on in here, in sampling as well as in training.

    With another kernel in one of the two the first ratio would not be 1. A few hosts before that have such kernels and no
    switch; ``in_words_of_kernels`` says so.
    """
    before = getattr(management, "in_training", None)
    if before is None:
        yield
        return
    management.in_training = True
    try:
        yield
    finally:
        management.in_training = before


def in_words_of_kernels(error: RuntimeError) -> RuntimeError | None:
    """What to say in the place of torch's error where the host ran a kernel that has no gradient; None where it is another."""
    if "comfy_kitchen" not in str(error) or "backward" not in str(error):
        return None
    return RuntimeError("This ComfyUI computes a part of the model with a kernel that has no gradient, so the model cannot be "
                        "trained on it. Update ComfyUI: newer ones switch it off for training "
                        f"(torch: {str(error).splitlines()[0][:120]})")
