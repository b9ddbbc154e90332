"""From scores to thumbs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from posttrain.trainers.feedback.labels import labels

F64 = torch.float64


def scores(values, groups):
    return SimpleNamespace(values=torch.as_tensor(values, dtype=F64), groups=torch.as_tensor(groups))


def test_labels_by_group_mean():
    out = labels(scores([0.0, 1.0, 1.0, 0.3, 0.3, 0.5, 0.75, 1.0], [0, 0, 0, 1, 1, 2, 2, 2]))
    assert out.index.tolist() == [0, 1, 2, 5, 7]
    assert out.desirable.tolist() == [False, True, True, False, True]
    assert out.stats == {"desirable": 3, "undesirable": 2, "skipped": 3, "failed": 0}


def test_labels_by_threshold_need_no_groups():
    out = labels(scores([0.2, 0.5, math.nan], [0, 1, 2]), "threshold", threshold=0.5)
    assert out.index.tolist() == [0, 1] and out.desirable.tolist() == [False, True] and out.stats["failed"] == 1
