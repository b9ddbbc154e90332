"""The UNets."""

from __future__ import annotations

from small_models import UNET

from .declared import Architecture

SDXL_LIKE = ("SSD1B", "KOALA_700M", "KOALA_1B", "Segmind_Vega")


def unet(
    of: str, name: str, linear: bool = True, adm: int | None = None, channels: int = 4, pooled: int = 64, **more
) -> Architecture:
    # two channels to a group of its norms: with one, they take out what the noise level adds
    config = {
        **UNET,
        "model_channels": 64,
        "channel_mult": [1, 1],
        "use_linear_in_transformer": linear,
        "adm_in_channels": adm,
        "in_channels": channels,
    }
    config |= {"num_classes": "sequential"} if adm else {}
    rest = {key: more.pop(key) for key in ("extra", "like", "text", "latent") if key in more}
    return Architecture(name, of, config | more, pooled=pooled, **{"latent": (4, 8, 8), **rest})


ROWS = (
    unet("SD15", "SD1.5", linear=False),
    unet("SD15", "SD1.5 inpainting", linear=False, channels=9),
    unet("SD15_instructpix2pix", "InstructPix2Pix", linear=False, channels=8),
    unet("SD20", "SD2"),
    unet("SD21UnclipL", "SD2.1 unCLIP", adm=1536, like=("SD21UnclipH",)),
    unet(
        "SD_X4Upscaler",
        "SD x4 upscaler",
        channels=7,
        num_classes=1000,
        latent=(4, 16, 16),
        channel_mult=[1, 1, 1, 1],
        num_res_blocks=[1, 1, 1, 1],
        transformer_depth=[0, 0, 0, 1],
        transformer_depth_output=[0, 0, 0, 0, 0, 0, 1, 1],
    ),
    unet("SDXL", "SDXL", adm=2816, pooled=1280, like=SDXL_LIKE),
    unet("SDXL", "SDXL inpainting", adm=2816, pooled=1280, channels=9),
    unet("SDXL_instructpix2pix", "SDXL InstructPix2Pix", adm=2816, pooled=1280, channels=8),
    unet("SDXLRefiner", "SDXL refiner", adm=2560, pooled=1280),
)
