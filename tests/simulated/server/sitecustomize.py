"""This folder on PYTHONPATH: a ComfyUI server (main.py without --cpu) that starts has the simulated card."""
import sys

if any(argument.endswith("main.py") for argument in sys.orig_argv) and "--cpu" not in sys.orig_argv:
    import importlib.util
    import types
    from pathlib import Path

    tests = Path(__file__).resolve().parents[2]
    sys.path.append(str(tests / "simulated"))
    posttrain = types.ModuleType("posttrain")  # the build asks it for the cache folder; the server imports the pack by itself
    posttrain.__path__ = [str(tests.parent)]
    sys.modules["posttrain"] = posttrain
    from simulated_card import device, dynamic

    device.start()
    if importlib.util.find_spec("comfy_aimdo"):  # a newer host, whose main.py then switches dynamic VRAM on
        dynamic.start()
    del sys.modules["posttrain"]
