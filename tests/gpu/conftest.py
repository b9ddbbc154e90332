"""Tests on a real card, in a process of their own: the host takes a card or the CPU once. On the simulated one they run through
tests/simulated/test_gpu.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "simulated"), str(HERE.parent / "unit" / "trainers" / "policy")]

if torch.cuda.is_available() and "comfy.model_management" not in sys.modules:
    import comfy.cli_args

    comfy.cli_args.args.cpu = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no NVIDIA card is to be had here"))
