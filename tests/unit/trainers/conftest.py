"""Loads the models beside the tests, which importlib mode does not put on the path."""
import importlib.util
import sys
from pathlib import Path

import pytest

for name in ("small_models", "gaussian_model", "host_sampler", "one_answer", "host_nodes", "quantised_models", "fingerprint",
             "interrupted", "architectures"):
    older = name == "architectures" and importlib.util.find_spec("comfy.ldm.chroma_radiance") is None  # it builds newer ones
    if name not in sys.modules and not older:
        folder = Path(__file__).with_name("policy") / name
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


@pytest.fixture(params=["sd15", "sd2_v", "sd3"])
def case(request):
    """(policy, rollout, advantages) of each way that a network predicts."""
    from posttrain.tests.unit.trainers.scored_rollouts import scored_rollout

    return scored_rollout(request.param)
