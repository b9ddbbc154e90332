"""What became of a run, in words."""

from __future__ import annotations

from pathlib import Path

WORDS = {"cancelled": "was cancelled", "paused": "is paused", "error": "stopped with an error"}


def summary(
    name: str,
    folder: Path,
    status: str,
    iterations: tuple[int, int, int],
    *,
    ended: str = "",
    nothing: str = "",
    failed: Exception | None = None,
) -> str:
    """status: "done", "cancelled", "paused" or "error". iterations: at the beginning of this session, now, and wanted.
    ended: why it ended early; nothing: why it learned nothing, or ""; failed: the last save that failed."""
    before, done, wanted = iterations
    if failed is not None:
        return f"Run '{name}': {failed}."
    if status == "done" and ended:
        return f"Run '{name}' ended early, after iteration {done} of {wanted}: {ended}. Saved in {folder}."
    if status == "done" and done == before:
        return (
            f"Run '{name}' is finished: {done} iterations are done and {wanted} were asked for, so there was nothing to do. To "
            "train on, raise 'iterations'."
        )
    if status == "done":
        return f"Run '{name}': trained to iteration {done} (from {before}). {nothing}{' ' if nothing else ''}Saved in {folder}."
    how = WORDS[status]
    if done == 0:
        return f"Run '{name}' {how} before its first iteration was done."
    return (
        f"Run '{name}' {how} after iteration {done} of {wanted}. The policy so far is saved in {folder}. Queue again to go on, "
        f"or set 'iterations' to {done} to use it as it is."
    )
