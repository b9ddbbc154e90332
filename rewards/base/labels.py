"""Scores written under their images: what each member of an ensemble thought of which picture."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .pixels import to_uint8
from .report import number, ranked
from .reward import Scores
from .usable import usable_images

NARROWEST, LINE, TEXT = 288, 18, 13  # pixels: least width of a labelled image, height of a line, size of its letters
LONGEST = 34  # letters of a member's name that fit


def labelled(images: Tensor, scores: Scores, best_first: bool = True, names: Sequence[str] = ()) -> Tensor:
    """images [B,H,W,3] with one score each -> [B,H',W',3]: under each image its score, then every member with its raw
    score and, in brackets, the normalised one. Small images are enlarged without smoothing. names: instead of the
    images' numbers. Raises ValueError."""
    images, _ = usable_images(images)
    if len(images) != len(scores.values):
        raise ValueError(f"images: {len(images)} images and {len(scores.values)} scores do not belong together.")
    factor = max(1, -(-NARROWEST // images.shape[2]))
    shown = to_uint8(F.interpolate(images.movedim(-1, 1).cpu(), scale_factor=factor, mode="nearest").movedim(1, -1))
    order = ranked(scores) if best_first else range(len(images))
    return torch.stack([_with_text(shown[i], lines_of(scores, i, names)) for i in order]).float() / 255


def contained(image: Tensor, side: int = NARROWEST) -> Tensor:
    """[1,H,W,3] -> [1,side,side,3]: the whole image in the middle of a dark square; pixel art stays sharp."""
    height, width = image.shape[1:3]
    scale = side / max(height, width)
    size = [max(1, round(n * (int(scale) if scale >= 2 else scale))) for n in (height, width)]
    mode = {"mode": "nearest"} if scale >= 2 else {"mode": "bilinear", "antialias": True}
    small = F.interpolate(image.movedim(-1, 1), size, **mode).movedim(1, -1)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    square = torch.full((1, side, side, 3), 24 / 255)
    square[:, top:top + size[0], left:left + size[1]] = small
    return square


def sheet(images: Tensor, names: Sequence[str]) -> Tensor:
    """images [R * K, H, W, 3], a row of K after the other -> one picture [1, H', W', 3] of R rows, each of the K columns with its
    name under it."""
    tiles = [_with_text(to_uint8(contained(image[None].cpu()))[0], [names[i % len(names)][:LONGEST]])
             for i, image in enumerate(images)]
    rows = [torch.cat(tiles[i:i + len(names)], 1) for i in range(0, len(tiles), len(names))]
    return torch.cat(rows)[None].float() / 255


def lines_of(scores: Scores, i: int, names: Sequence[str] = ()) -> list[str]:
    """The label of image i: its score, then a line per member where there are several."""
    name = names[i][-LONGEST:] if names else i + 1
    lines = [f"{name}: {number(scores.values[i].item())}"]
    if len(scores.members) > 1 or scores.normalised:
        for name, raw in scores.members.items():
            normal = f" ({number(scores.normalised[name][i].item())})" if name in scores.normalised else ""
            short = name if len(name) <= LONGEST else name[:LONGEST - 1] + "\u2026"
            lines.append(f"{short}: {number(raw[i].item())}{normal}")
    return lines


def _with_text(image: Tensor, lines: list[str]) -> Tensor:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[:2]
    sheet = Image.new("RGB", (width, height + LINE * len(lines) + 6), (24, 24, 24))
    sheet.paste(Image.fromarray(image.numpy()))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TEXT)
    for row, line in enumerate(lines):
        draw.text((6, height + 4 + LINE * row), line, font=font, fill=(255, 255, 255) if row == 0 else (190, 190, 190))
    return torch.from_numpy(np.asarray(sheet).copy())
