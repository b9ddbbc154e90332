"""Preference data in the model's own space: every image encoded once and kept on the disk, batches dealt out as rollouts."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...rewards.base.reward import Prompt
from ...rewards.base.words import brief
from ..feedback.labels import Labels
from ..feedback.pairs import Preferences
from ..noise.streams import Stream, generator
from ..policy.levels import sigmas_of
from ..policy.value import Policy
from ..prompts import PromptSet
from ..sampling.draws import chosen_prompts, coming_prompts
from ..sampling.rollout import Rollout
from ..sampling.settings import Sampling
from .images import Frame, pixels
from .on_disk import StoredLatents
from .rows import BadRow, Dataset, Pair, Thumb, skipped_text

# a fine grid of the model's noise levels; training draws from it
LEVELS = 100


@dataclass(frozen=True)
class EncodedData:
    """rows [N]; places [N, 2] (pairs: winner, loser) or [N, 1] (thumbs): rows of latents; latents [M, C, H, W] half
    precision, model space; prompt [N]: its number in prompts; good [N] bool: thumbs up, True for pairs; frame:
    the images' size; skipped: see Dataset."""

    source: str
    rows: tuple[Pair, ...] | tuple[Thumb, ...]
    places: torch.Tensor
    latents: StoredLatents | torch.Tensor
    prompts: PromptSet
    prompt: torch.Tensor
    good: torch.Tensor
    frame: Frame
    skipped: tuple[str, ...] = ()
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.rows)

    def summary(self) -> str:
        megabytes = 2 * math.prod(self.latents.shape) / 2**20
        told = (f"{len(self)} {'pairs' if self.places.shape[1] == 2 else 'thumbs'}, {len(self.latents)} images, "
                f"{len(self.prompts)} prompts, {megabytes:.1f} MB of latents on the disk")
        return told + skipped_text(self.skipped)


def encode(data: Dataset, frame: Frame, encode_image: Callable[[torch.Tensor], torch.Tensor],
           encode_texts: Callable[[PromptSet], PromptSet], report: Callable[[int, int], None] = lambda done, of: None
           ) -> EncodedData:
    """Each image through ``encode_image`` ([1, H, W, 3] -> [1, C, H, W]) and each prompt through ``encode_texts``.

    An image that several rows share is encoded once. Rows whose images cannot be read, do not fit the frame or turn out
    to be the same are left out and listed. ValueError names the source where no row is left.
    """
    known: dict[object, int] = {}
    finite: list[bool] = []
    latents, rows, places, skipped = StoredLatents(), [], [], list(data.skipped)
    for number, row in enumerate(data.rows):
        report(number, len(data.rows))
        try:
            images = pixels(row.pictures, frame)
            if len(images) == 2 and torch.equal(images[0], images[1]):
                raise BadRow("both images are the same")
        except BadRow as error:
            skipped.append(f"{row.name}: {error}")
            continue
        keys = [picture.path or id(picture) for picture in row.pictures]
        for key, image in zip(keys, images):
            if key not in known:
                latent = encode_image(image[None]).half()
                known[key] = latents.add(latent)
                finite.append(bool(latent.isfinite().all()))
                if len(latents) == 1:
                    latents.check_room(len(data.rows) * len(keys) - 1)
        place = [known[key] for key in keys]
        if not all(finite[at] for at in place):
            skipped.append(f"{row.name}: the VAE's answer is not a number; run the VAE in 32 bit (--fp32-vae), or take another")
            continue
        rows.append(row)
        places.append(place)
    if not rows:
        raise ValueError(f"{data.source}: none of its rows can be used{skipped_text(tuple(skipped))}")
    asked = [Prompt(row.prompt, source=row.source) for row in rows]
    order = {prompt: i for i, prompt in enumerate(dict.fromkeys(asked))}
    return EncodedData(
        source=data.source, rows=tuple(rows), places=torch.tensor(places), latents=latents,
        prompts=encode_texts(PromptSet(tuple(order))),
        prompt=torch.tensor([order[prompt] for prompt in asked]),
        good=torch.tensor([getattr(row, "good", True) for row in rows]), frame=frame, skipped=tuple(skipped))


@torch.inference_mode(False)
def deal(data: EncodedData, policy: Policy, iteration: int, count: int, seed: int, batch_size: int
         ) -> tuple[Rollout, Preferences | Labels]:
    """``count`` rows of this iteration as a rollout and its preferences; all rows come before one comes again.

    batch_size: images that training shall evaluate at once. Raises ValueError where the policy's model has other latents.
    """
    channels = policy.model.model.latent_format.latent_channels
    if data.latents.shape[1] != channels:
        raise ValueError(f"pairs: their latents have {data.latents.shape[1]} channels, but the policy's model has "
                         f"{channels}; encode the pairs with the VAE of the model that is trained")
    draw = Sampling(prompts_per_iteration=count, seed=seed)
    picks = chosen_prompts(len(data), draw, iteration)
    coming = (int(data.prompt[row]) for row in coming_prompts(len(data), draw, iteration))
    data.prompts.prepare(data.prompt[picks].unique(), coming)
    sides = data.places[picks].T  # winners, then losers; one row of thumbs
    random = generator(seed, iteration, Stream.DATA)
    rollout = Rollout(
        # the picked rows alone: a copy of all of them would be as large as the data
        latents=data.latents[sides.flatten()].float(), images=_pictures(data, picks),
        prompts=data.prompts, index=data.prompt[picks].repeat(len(sides)), iteration=iteration,
        seeds=torch.randint(2**62, (sides.numel(),), generator=random), guidance=1.0, trajectory=None,
        sigmas=sigmas_of(policy.model.get_model_object("model_sampling"), "simple", LEVELS), batch_size=batch_size)
    stats = {"failed": 0.0, "epochs": (iteration + 1) * len(picks) / len(data)}
    number, groups = torch.arange(len(picks)), data.prompt[picks]
    if len(sides) == 2:
        margin = torch.ones(len(picks), dtype=torch.float64)
        return rollout, Preferences(number, number + len(picks), margin, groups, stats | {"pairs": float(len(picks))})
    good = data.good[picks]
    stats |= {"desirable": float(good.sum()), "undesirable": float((~good).sum())}
    return rollout, Labels(number, good, groups, stats)


def _pictures(data: EncodedData, picks: torch.Tensor) -> torch.Tensor:
    """The images themselves, read again: they are for looking at and for rewards, training needs the latents only."""
    chosen = [data.rows[int(i)] for i in picks]
    try:
        images = [pixels(row.pictures, data.frame) for row in chosen]
    except BadRow as error:
        raise ValueError(f"{data.source}: {error}, though it was read before; is it still there?") from None
    return torch.stack(images, 1).flatten(0, 1)
