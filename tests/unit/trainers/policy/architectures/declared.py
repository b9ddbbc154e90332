"""What an architecture's small instance is told in, and the parts that several share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import comfy.supported_models as supported
import torch

MASK = torch.ones(1, 6, dtype=torch.long)
TEXT = 32  # width of a token, where the architecture does not prescribe it


@dataclass(frozen=True)
class Architecture:
    """of: the class in comfy.supported_models; config: what the host would read from a checkpoint; latent: [C, H, W] or
    [C, 1, H, W]; text, pooled: widths of a token and of the pooled text; extra: what else nodes and encoders put into a
    conditioning; like: classes that are the same network with other numbers, and need no row of their own;
    dtype: of the comparison of gradients; decoded: channels that the VAE takes, where the format unfolds them; shrink: makes
    small what the host builds in one size only."""

    name: str
    of: str
    config: dict
    latent: tuple[int, ...] = (16, 8, 8)
    text: int = TEXT
    pooled: int = 64
    extra: Callable[[torch.Generator], dict] = field(default=lambda generator: {})
    like: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float64
    decoded: int = 0
    shrink: Callable | None = None

    @property
    def video(self) -> bool:
        return len(self.latent) == 4

    def on_this_host(self) -> bool:
        return hasattr(supported, self.of)

    def build(self):
        """The host's description of such a checkpoint; numbers that it has only in one size are made small too."""
        kind = getattr(supported, self.of)
        description = kind(dict(self.config))
        description.unet_config |= {key: self.config[key] for key in kind.unet_extra_config if key in self.config}
        if self.shrink is not None:
            whole = description.get_model
            description.get_model = lambda *args, **kwargs: self.shrink(whole(*args, **kwargs))
        return description

    def conditioning(self, seed: int, tokens: int) -> list:
        generator = torch.Generator().manual_seed(1000 + seed)
        extra = {"pooled_output": torch.randn(1, self.pooled, generator=generator), **self.extra(generator)}
        return [[torch.randn(1, tokens, self.text, generator=generator), extra]]


def drawn(*shape: int) -> Callable[[torch.Generator], torch.Tensor]:
    return lambda generator: torch.randn(*shape, generator=generator)


def conditioned(**values) -> Callable[[torch.Generator], dict]:
    """Values of a conditioning; those that are functions are drawn from its generator."""
    return lambda generator: {key: value(generator) if callable(value) else value for key, value in values.items()}


def references(*shape: int) -> Callable[[torch.Generator], list[torch.Tensor]]:
    return lambda generator: [torch.randn(1, *shape, generator=generator)]


def asked(params: type, **values) -> dict:
    """Those that this host's network wants to be told; newer hosts want more."""
    return {key: value for key, value in values.items() if key in {field.name for field in fields(params)}}
