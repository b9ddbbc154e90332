"""The Inception network of FID and KID (arXiv:1706.08500): the weights of 2015, from a file, on torchvision's layers.

Where the network of 2015 averages or pools over 3 x 3 pixels it does so otherwise than torchvision's in nine blocks. Pictures are
resized with antialiasing (arXiv:2104.11222), so that numbers are those of clean-fid rather than of the older tools.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoints import fill, load_weights
from .files import Published
from .preprocess import Geometry

PUBLISHED = Published(
    "Inception (FID, KID)", ("*inception-2015-12-05*.safetensors", "*inception-2015-12-05*.pth"),
    "pt_inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth of mseitzer/pytorch-fid (its releases)",
    "96 MB", "Apache-2.0")  # fmt: skip
MIDDLE = (128 / 255,) * 3  # bytes less 128, over 128
GEOMETRY = Geometry(299, "squash", MIDDLE, MIDDLE)
CLASSES = 1008  # of 2015; torchvision's own network has 1000
AVERAGED = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")
UNUSED = ("fc.", "AuxLogits.")


def build_inception(path: Path) -> nn.Module:
    """The frozen network: pixels [B, 3, 299, 299] by GEOMETRY -> the features of its last pool, [B, 2048]. ValueError where the
    file holds another one, torchvision's of ImageNet among them."""
    weights = load_weights(path)
    classes = len(weights["fc.bias"]) if "fc.bias" in weights else CLASSES
    if classes != CLASSES:
        raise ValueError(f"{path.name} is an Inception network of {classes} classes; FID and KID are measured with the one of "
                         f"2015, which has {CLASSES}. Use {PUBLISHED.save_as}.")  # fmt: skip
    with torch.device("meta"):
        network = _network()
    # the published file counts no batches
    counters = {name: torch.zeros((), dtype=torch.long) for name in network.state_dict() if name.endswith("batches_tracked")}
    return fill(network, counters | weights, path.name, ignore=UNUSED)


def _network() -> nn.Module:
    from torchvision.models.inception import Inception3

    network = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False)
    for name in AVERAGED:
        _pooled_as_in_2015(network.get_submodule(name), _average)
    _pooled_as_in_2015(network.get_submodule("Mixed_7c"), _largest)
    network.fc = nn.Identity()
    return network


def _average(features: Tensor) -> Tensor:
    return F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)


def _largest(features: Tensor) -> Tensor:
    return F.max_pool2d(features, 3, stride=1, padding=1)


def _pooled_as_in_2015(block: Any, pool: Callable[[Tensor], Tensor]) -> None:
    """Lets the block's last branch read ``pool`` of what the block is given: its branches are joined in forward()."""
    branches = block._forward
    block._forward = lambda features: [*branches(features)[:-1], block.branch_pool(pool(features))]
