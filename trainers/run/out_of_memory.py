"""A card that is too small for a training: which settings to change, in the order of what they cost."""

from __future__ import annotations

from collections.abc import Mapping

SIGNS = ("out of memory", "outofmemory", "out_of_memory", "defaultcpuallocator")
LOW_MEMORY, BATCH = "low_memory", "batch_size"
STEPS = {
    LOW_MEMORY: "switch on low_memory in the trainer (it costs about a third more time, and changes nothing else)",
    BATCH: "lower batch_size in Sampling Settings, now {now}, to {half} (slower, the same result but for rounding)",
    "weights": "use the model in fp8 or as GGUF, or start ComfyUI with --lowvram, so that its weights take less",
    "pictures": "train smaller pictures (the empty latent's width and height)",
}


def is_out_of_memory(error: BaseException | None) -> bool:
    """Also where it was told on in another error's words, as a loop tells of its nodes."""
    while error is not None:
        words = f"{type(error).__name__} {error}".lower()
        if isinstance(error, MemoryError) or any(sign in words for sign in SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def steps_to_take(settings: Mapping[str, object]) -> dict:
    """ "steps": names of STEPS, in their order; the batch size "now" and as it should be, "half". settings: of the run,
    "Class.input" -> value. What is as small as it gets already is not named."""
    low = any(name.endswith(f".{LOW_MEMORY}") and value is False for name, value in settings.items())
    batches = [value for name, value in settings.items() if name.endswith(f".{BATCH}") and isinstance(value, int)]
    now = max(batches, default=1)
    steps = [*([LOW_MEMORY] if low else []), *([BATCH] if now > 1 else []), "weights", "pictures"]
    return {"steps": steps, "now": now, "half": now // 2}


def what_to_change(settings: Mapping[str, object]) -> str:
    """The same as a sentence."""
    told = steps_to_take(settings)
    listed = "; ".join(f"{number}) {STEPS[step].format(**told)}" for number, step in enumerate(told["steps"], 1))
    return f"The memory is full. Change one thing after the other, in this order, and queue again: {listed}."
