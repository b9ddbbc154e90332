"""Images with their scores under them."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base.labels import labelled, lines_of
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.composite.combine import WeightedSum

from ..constant import Constant

NONE = [Prompt("")] * 5


def test_scores_are_written_under_their_images_best_first():
    images = torch.stack([torch.full((20, 30, 3), v) for v in (0.2, 0.9, 0.5)])
    total = WeightedSum(
        ((Constant([1.0, torch.nan, 3.0]), 1.0), (Constant(0.5, name="a member with a very long name indeed"), 1.0))
    )
    scores = score(total, images, NONE[:3], [0, 0, 1])
    assert lines_of(scores, 0) == ["1: 1.5", "constant: 1", "a member with a very long name in\u2026: 0.5"]
    found = labelled(images, scores)
    assert found.shape[0] == 3 and found.shape[2] >= 288 and found.shape[1] > 200
    assert [round(f[5, 5, 0].item(), 1) for f in found] == [0.5, 0.2, 0.9]  # 3.5, 1.5, failed
    assert found[:, -12:].amax() > 0.5  # letters
    assert [round(f[5, 5, 0].item(), 1) for f in labelled(images, scores, False)] == [0.2, 0.9, 0.5]
    with pytest.raises(ValueError, match="2 images and 3 scores"):
        labelled(images[:2], scores)
