"""Small random networks for the tests, in the layouts of the published files."""
from __future__ import annotations

import torch


def randomised(network: torch.nn.Module, seed: int = 0, scale: float = 0.08) -> torch.nn.Module:
    """Every parameter drawn anew, biases and norms too: an ignored one would change the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            noise = torch.randn(p.shape, generator=generator) * scale
            p.copy_(noise + (1.0 if p.ndim == 1 and "bias" not in name and name.endswith("weight") else 0.0))
    return network.eval()


def tiny_open_clip(quick_gelu: bool = False, seed: int = 0):
    """An open_clip CLIP: 2 layers of 128, 28 pixels in patches of 14, the real vocabulary."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    network = CLIP(48, CLIPVisionCfg(layers=2, width=128, patch_size=14, image_size=56),
                   CLIPTextCfg(layers=2, width=64, heads=1), quick_gelu=quick_gelu)
    network = randomised(network, seed)
    with torch.no_grad():
        network.logit_scale.fill_(4.605170249938965)
    return network


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """[1,H,W,3] in [0, 1] with a natural (1/f) spectrum."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, height, width, generator=generator)
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    spectrum = torch.fft.rfft2(noise) / (fy**2 + fx**2).sqrt().clamp_min(1 / max(height, width))
    image = torch.fft.irfft2(spectrum, s=(height, width))
    image = (image - image.mean()) / (4 * image.std() + 1e-9) + 0.5
    return image.clamp(0, 1).permute(1, 2, 0)[None].contiguous()
