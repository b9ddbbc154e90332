"""Uploads: the value as it was, and waiting only where the host says so."""

from __future__ import annotations

import comfy.model_management as management
import pytest
import torch
from posttrain.trainers.policy.uploads import uploaded


class Watched(torch.Tensor):
    def to(self, *args, **more):
        self.asked = (args, more)
        return self


@pytest.mark.parametrize("free", [True, False])
def test_the_host_says_whether_a_copy_is_waited_for(monkeypatch, free):
    device, value = torch.device("cpu"), torch.ones(2).as_subclass(Watched)
    monkeypatch.setattr(management, "device_supports_non_blocking", lambda asked: free and asked == device)
    uploaded(value, device)
    assert value.asked == ((device, torch.float32), {"non_blocking": free})


def test_a_value_keeps_its_numbers_and_its_type_unless_asked():
    value = torch.tensor([1, 2])
    assert torch.equal(uploaded(value, value.device), value)
    assert uploaded(value, value.device, torch.float32).tolist() == [1.0, 2.0]
