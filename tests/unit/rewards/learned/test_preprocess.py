"""Our differentiable resize against Pillow's, which the networks were trained with."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from posttrain.rewards.base.half import through_half
from posttrain.rewards.learned.preprocess import HALF, Geometry, preprocess

from ..networks import picture

PLAIN = dict(mean=(0.0,) * 3, std=(1.0,) * 3)


def pillow(image: torch.Tensor, size: int, mode: str, filter=Image.Resampling.BICUBIC) -> torch.Tensor:
    """The same geometry with Pillow, 8-bit rounding included. [H,W,3] -> [3,S,S]."""
    img = Image.fromarray((image * 255).round().byte().numpy())
    w, h = img.size
    if mode == "squash":
        img = img.resize((size, size), filter)
    elif mode == "crop":
        img = img.resize((size, int(size * h / w)) if w <= h else (int(size * w / h), size), filter)
        left, top = (img.width - size) // 2, (img.height - size) // 2
        img = img.crop((left, top, left + size, top + size))
    else:
        scale = size / max(w, h)
        small = img.resize((max(1, round(w * scale)), max(1, round(h * scale))), filter)
        img = Image.new("RGB", (size, size))
        img.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return torch.from_numpy(np.asarray(img).copy()).permute(2, 0, 1) / 255


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
@pytest.mark.parametrize("height, width", [(1024, 1024), (512, 768), (900, 300), (97, 133), (1, 1)])
def test_agrees_with_pillow(mode, height, width):
    image = picture(height, width)
    image = (image * 255).round() / 255
    ours = preprocess(image, Geometry(224, mode, **PLAIN))[0]
    difference = (ours - pillow(image[0], 224, mode)).abs() * 255
    assert ours.shape == (3, 224, 224)
    worst = difference.flatten().sort().values[-difference.numel() // 500 - 1]  # all but one value in 500
    # in 8-bit steps; Pillow rounds and clips twice, so a few saturated pixels are further away when it enlarges
    assert difference.mean() < 0.4 and worst < 3 and difference.max() < 9


def test_bilinear_agrees_with_pillow():
    image = (picture(640, 480) * 255).round() / 255
    ours = preprocess(image, Geometry(224, "squash", interpolation="bilinear", **PLAIN))[0]
    difference = (ours - pillow(image[0], 224, "squash", Image.Resampling.BILINEAR)).abs() * 255
    assert difference.mean() < 0.5 and difference.max() < 2


def test_without_antialias_it_would_not_agree():
    """The check above can fail: the plain bicubic resize is far from Pillow."""
    image = torch.rand(1, 1024, 1024, 3)
    plain = torch.nn.functional.interpolate(image.movedim(-1, 1), (224, 224), mode="bicubic")[0].clamp(0, 1)
    ours = preprocess(image, Geometry(224, "squash", **PLAIN))[0]
    reference = pillow(image[0], 224, "squash")
    assert ((plain - reference).abs() * 255).mean() > 20 * ((ours - reference).abs() * 255).mean()


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
def test_gradient_is_the_finite_difference(mode):
    torch.manual_seed(0)
    image = (torch.rand(1, 9, 14, 3) * 0.5 + 0.25).double()

    def value(x):
        return (preprocess(x, Geometry(6, mode, HALF, HALF)).double() * weights).sum()

    weights = torch.randn(1, 3, 6, 6).double()
    x = image.clone().requires_grad_()
    value(x).backward()
    direction = torch.randn_like(image)
    numeric = (value(image + 1e-2 * direction) - value(image - 1e-2 * direction)) / 2e-2
    assert torch.allclose((x.grad * direction).sum(), numeric, rtol=1e-3)


def test_padding_is_black_before_the_normalisation():
    out = preprocess(torch.ones(1, 50, 100, 3), Geometry(20, "pad", HALF, HALF))
    assert (out[0, :, 0] == -1).all() and torch.allclose(out[0, :, 10], torch.tensor(1.0))


@pytest.mark.parametrize("height, width", [(4320, 7680), (8, 4000)])
def test_8k_and_extremely_long_images(height, width):
    out = preprocess(torch.full((1, height, width, 3), 0.25), Geometry(224, "crop", **PLAIN))
    assert out.shape == (1, 3, 224, 224) and torch.allclose(out, torch.tensor(0.25), atol=1e-5)


def test_unknown_mode():
    with pytest.raises(ValueError, match="crop, pad or squash"):
        preprocess(torch.rand(1, 4, 4, 3), Geometry(4, "stretch"))


def test_float16_gradients_do_not_vanish():
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 4).eval().requires_grad_(False)
    half = torch.nn.Linear(8, 4).eval().requires_grad_(False).half()
    half.load_state_dict({k: v.half() for k, v in layer.state_dict().items()})
    x = torch.rand(3, 8)
    grads = {}
    for name, run in {"exact": lambda p: layer(p), "plain": lambda p: half(p.half()).float(),
                      "scaled": lambda p: through_half(half, p, torch.float16)}.items():
        pixels = x.clone().requires_grad_()
        (run(pixels).sum() * 1e-9).backward()  # far below what float16 can hold
        grads[name] = pixels.grad
    assert grads["plain"].abs().max() == 0
    assert torch.allclose(grads["scaled"], grads["exact"], rtol=5e-3)


def test_float16_without_gradients_is_a_plain_call():
    calls = []
    through_half(lambda p: calls.append(p.dtype) or p, torch.rand(2, 2), torch.float16)
    assert calls == [torch.float16]
