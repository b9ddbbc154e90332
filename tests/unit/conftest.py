"""Fixtures of the pure tests."""
from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# transformers imports torchaudio wherever it is installed, also one for another build of torch that cannot load
try:
    import torchaudio  # noqa: F401
except Exception:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules["torchaudio"] = None

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


class Golden(dict):
    """Tensors of a golden file; view(prefix) gives those under a prefix, falling back to the file's shared ones."""

    def view(self, prefix: str) -> Golden:
        own = {k[len(prefix):]: v for k, v in self.items() if k.startswith(prefix)}
        return Golden({**self, **own})

    def const(self, name: str) -> float:
        return self[f"const.{name}"].item()


@pytest.fixture(scope="session")
def golden():
    """golden("02a") -> Golden, the one file whose name starts so."""
    def load(start: str) -> Golden:
        (path,) = GOLDEN.glob(f"{start}*.safetensors")
        return Golden(load_file(path))
    return load


@pytest.fixture
def close():
    """close(actual, expected, tolerance): largest difference, relative to the largest expected value."""
    def check(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-7) -> None:
        assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
        scale = expected.abs().max().clamp_min(1e-30).double()
        error = ((actual.detach().double() - expected.double()).abs().max() / scale).item()
        assert error <= tolerance, f"relative error {error:.2e} > {tolerance:.0e}"
    return check


@pytest.fixture(scope="session")
def float32_constant() -> float:
    """The references take log sqrt(2 pi) in float32: add this 1.6e-8 to an exact log-prob to get theirs."""
    return 0.5 * math.log(2 * math.pi) - torch.log(torch.sqrt(2 * torch.as_tensor(math.pi))).item()


@pytest.fixture
def models(tmp_path, monkeypatch):
    """ComfyUI's model folders, all empty."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {
        "clip_vision": ([str(tmp_path / "clip_vision")], {".safetensors"}), "loras": ([str(tmp_path / "loras")], set())})
    return tmp_path


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """The test's own folder, which workflows may read: as if the user had opened it."""
    monkeypatch.setenv("POSTTRAIN_FOLDERS", str(tmp_path))
    return tmp_path
