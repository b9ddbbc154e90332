"""Which classes of comfy.supported_models have no row, and why."""

from __future__ import annotations

# why a class of comfy.supported_models has no row: the classes
NO_ROW = {
    "refused, it turns one image into another without noise": ("LotusD", "WAN21_FlowRVS"),
    "refused, it makes a video together with its sound": ("LTXAV", "MiniMaxH3"),
    "refused, it makes a given video sharper": ("SeedVR2",),
    "refused, its first frame is the picture that it sets in motion": ("WAN_Animate2",),
    "refused, it takes the images of a batch for the frames of one video": ("SVD_img2vid", "SV3D_u", "SV3D_p"),
    "refused, it makes sound": ("StableAudio", "StableAudio3", "ACEStep15", "MiniMaxMusic3"),
    "refused, it makes 3D shapes": ("Hunyuan3Dv2mini", "Hunyuan3Dv2", "Hunyuan3Dv2_1", "TripoSplat"),
    "untried, its prompts are pictures, which Encode Prompts does not make": ("Stable_Zero123",),
    "untried, two networks in a row, of which each alone draws no picture": ("Stable_Cascade_C", "Stable_Cascade_B"),
    "untried, it follows a control video, a camera or a voice": (
        "WAN21_Vace",
        "WAN21_Camera",
        "WAN22_Camera",
        "WAN22_S2V",
        "WAN21_HuMo",
        "WAN22_Animate",
    ),
    "untried, it finds things in pictures and draws none": ("RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3"),
}
