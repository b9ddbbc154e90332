"""Example preference data of the toy world on disk, laid out as a person's own pictures would be."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..rewards.base.reward import Prompt
from .verifier import ToyVerifier
from .world import SIZE, caption, render, split, wrong

LAYOUTS = {"pairs": ("win", "lose"), "thumbs": ("like", "dislike")}


def write_pictures(folder: Path, layout: str, count: int, seed: int = 0) -> int:
    """Writes ``count`` right and as many wrong pictures of training prompts into the two folders of a layout.

    Each is a PNG with its prompt in a .txt file of the same name; the right and the wrong picture of a number have the
    same prompt. Files that are there already are left alone. Returns how many pictures were written.
    """
    specs = split(held_out=False)
    specs = [specs[i % len(specs)] for i in range(count)]
    random = np.random.default_rng(seed)
    shown = (render(specs, seed), wrong_pictures(specs, random))
    written = 0
    for side, pictures in zip(LAYOUTS[layout], shown):
        (folder / side).mkdir(parents=True, exist_ok=True)
        for number, (spec, pixels) in enumerate(zip(specs, pictures)):
            written += _write(folder / side / f"{number:04}", pixels, caption(spec))
    return written


def wrong_pictures(specs: list[dict], random: np.random.Generator) -> np.ndarray:
    """[N, 24, 24, 3]: clean pictures of something else than the specs, as the strict verifier confirms."""
    judge, prompts = ToyVerifier("strict"), [Prompt(caption(s), s) for s in specs]
    pictures, left = np.empty((len(specs), SIZE, SIZE, 3), np.float32), np.arange(len(specs))
    while len(left):
        pictures[left] = render([wrong(specs[i], random) for i in left], int(random.integers(2**31)))
        # what is above may also be left of: such a picture is drawn again
        left = left[judge(torch.from_numpy(pictures[left]), [prompts[i] for i in left]).numpy() > 0]
    return pictures


def _write(stem: Path, pixels: np.ndarray, text: str) -> bool:
    from PIL import Image
    picture, caption_file = stem.with_suffix(".png"), stem.with_suffix(".txt")
    if picture.is_file():
        return False
    caption_file.write_text(text + "\n", encoding="utf-8")
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(picture)
    return True
