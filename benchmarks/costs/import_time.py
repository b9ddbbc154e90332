"""What the pack adds to ComfyUI's start."""
from __future__ import annotations

from tools.import_pack import import_cost

from . import Measure


def measure() -> list[Measure]:
    cost = import_cost(runs=3)
    return [Measure("import of the pack", cost["seconds"], "s", 0.3,
                    f"{cost['nodes']} nodes; modules from elsewhere: {', '.join(cost['modules']) or 'none'}")]
