"""A node's progress bar with a preview of what is being sampled."""
from __future__ import annotations

import time

PREVIEW_SECONDS = 0.5


def node_progress(unique_id, model=None):
    """progress(done, total, x0=None, preview=None) for long functions; x0: a clean estimate [1, C, H, W], previewed if it can be;
    preview: a picture as the host takes it."""
    import comfy.utils
    bar = comfy.utils.ProgressBar(1, node_id=unique_id)
    previewer, last = None if model is None else _previewer(model), 0.0

    def progress(done: int, total: int, x0=None, preview=None) -> None:
        nonlocal last
        if previewer is not None and x0 is not None and time.monotonic() - last > PREVIEW_SECONDS:
            last = time.monotonic()
            preview = previewer.decode_latent_to_preview_image("JPEG", x0)
        bar.update_absolute(done, total, preview)

    return progress


def _previewer(model):
    import latent_preview
    return latent_preview.get_previewer(model.load_device, model.model.latent_format)
