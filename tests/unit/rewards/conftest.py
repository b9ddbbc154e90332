"""transformers imports torchaudio wherever it is installed; one that cannot load (another torch build) is hidden."""
from __future__ import annotations

import sys

try:
    import torchaudio  # noqa: F401
except Exception:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules["torchaudio"] = None
