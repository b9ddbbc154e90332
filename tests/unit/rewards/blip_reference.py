"""The networks of the authors' package image-reward (BLIP's vit.py and med.py), without its old dependencies.

The package itself cannot be imported beside today's transformers. Its two network files can, where names that they import
but do not need for a forward pass are stood in for; what they compute is theirs.
"""
from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

LAYERS = 2


class PatchEmbed(nn.Module):
    """timm's: a convolution whose kernel is a patch."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        self.num_patches = (img_size // patch_size) ** 2

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def nothing(*_, **__):
    """For names that only training, pruning or downloading needs."""


def chunked(function, size, dim, *inputs):
    assert size == 0
    return function(*inputs)


STAND_INS = {
    "timm.models.vision_transformer": {"_cfg": nothing, "PatchEmbed": PatchEmbed},
    "timm.models.registry": {"register_model": nothing},
    "timm.models.layers": {"trunc_normal_": nn.init.trunc_normal_, "DropPath": nn.Identity},
    "timm.models.helpers": {"named_apply": nothing, "adapt_input_conv": nothing},
    "fairscale.nn.checkpoint.checkpoint_activations": {"checkpoint_wrapper": nothing},
}
GONE = {"apply_chunking_to_forward": chunked, "find_pruneable_heads_and_indices": nothing, "prune_linear_layer": nothing}


def reference(width: int, text_width: int, side: int) -> nn.Module:
    """ImageReward as published, smaller: .blip.visual_encoder, .blip.text_encoder and .mlp.layers, random weights."""
    vit, med = (_network_file(name) for name in ("vit", "med"))
    from transformers import BertConfig

    config = BertConfig(vocab_size=30524, hidden_size=text_width, num_hidden_layers=LAYERS, num_attention_heads=text_width // 64,
                        intermediate_size=96, encoder_width=width, add_cross_attention=True, is_decoder=False,
                        chunk_size_feed_forward=0)
    config.encoder_width = width
    blip = nn.Module()
    blip.visual_encoder = vit.VisionTransformer(img_size=side, patch_size=16, embed_dim=width, depth=LAYERS,
                                                num_heads=width // 64, mlp_ratio=2)
    blip.text_encoder = med.BertModel(config=config, add_pooling_layer=False)
    return ImageReward(blip, text_width)


class ImageReward(nn.Module):
    """The forward pass of the authors' ImageReward.score_gard."""

    def __init__(self, blip: nn.Module, width: int):
        super().__init__()
        self.blip, self.mlp = blip, nn.Module()
        self.mlp.layers = nn.Sequential(nn.Linear(width, 48), nn.Dropout(), nn.Linear(48, 32), nn.Linear(32, 1))

    def forward(self, pixels, ids, mask):
        seen = self.blip.visual_encoder(pixels)
        first = self.blip.text_encoder(ids, attention_mask=mask, encoder_hidden_states=seen, return_dict=True,
                                       encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long)
                                       ).last_hidden_state[:, 0]
        return (self.mlp.layers(first)[:, 0] - 0.16717362830052426) / 1.0333394966054072


def _network_file(name: str) -> ModuleType:
    spec = find_spec("ImageReward")
    assert spec is not None and spec.origin, "image-reward, pinned in the test requirements, is not installed"
    file = Path(spec.origin).parent / "models" / "BLIP" / f"{name}.py"
    module = module_from_spec(spec_from_file_location(f"image_reward_{name}", file))
    sys.modules[module.__name__] = module  # transformers looks a model's file up
    with _stood_in():
        module.__spec__.loader.exec_module(module)
    if name == "med":
        # what transformers 5 dropped, for an inference without masked heads
        module.BertModel.get_head_mask = lambda self, mask, layers: [None] * layers
        module.BertModel.invert_attention_mask = lambda self, mask: (1.0 - mask[:, None, None]) * torch.finfo(torch.float32).min
        module.BertPreTrainedModel.init_weights = nothing
    return module


@contextlib.contextmanager
def _stood_in():
    from transformers import modeling_utils, utils

    stand_ins = STAND_INS | {"transformers.file_utils": {"ModelOutput": utils.ModelOutput}}
    parents = {name[:end] for name in STAND_INS for end, letter in enumerate(name) if letter == "."}
    hidden = {name: sys.modules.get(name) for name in (*parents, *stand_ins)}
    missing = {name: value for name, value in GONE.items() if not hasattr(modeling_utils, name)}
    for name in hidden:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(stand_ins.get(name, {}))
    vars(modeling_utils).update(missing)
    try:
        yield
    finally:
        for name in missing:
            delattr(modeling_utils, name)
        for name, module in hidden.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
