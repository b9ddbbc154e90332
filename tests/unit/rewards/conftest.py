"""Empty model folders; and a torchaudio that cannot load is hidden.

transformers imports torchaudio wherever it is installed, also one for another build of torch.
"""
from __future__ import annotations

import sys

import pytest

try:
    import torchaudio  # noqa: F401
except Exception:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules["torchaudio"] = None


@pytest.fixture
def models(tmp_path, monkeypatch):
    """ComfyUI's model folders, all empty."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {
        "clip_vision": ([str(tmp_path / "clip_vision")], {".safetensors"}), "loras": ([str(tmp_path / "loras")], set())})
    return tmp_path
