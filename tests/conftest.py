"""Makes the pack importable as ``posttrain`` and the host importable as ``comfy``, whatever the pack's folder is called.

The pack's own ``__init__`` is not run: it registers nodes, which pure tests do not need, and the pack's
``nodes`` folder must not shadow ComfyUI's ``nodes.py``, so the pack's root is never on ``sys.path``.
"""
from __future__ import annotations

import gc
import os
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [place for place in sys.path if Path(place).resolve() != ROOT]  # ``python -m pytest`` and editors put it there

if "posttrain" not in sys.modules:
    pack = types.ModuleType("posttrain")
    pack.__path__ = [str(ROOT)]
    sys.modules["posttrain"] = pack

if "COMFYUI_DIR" not in os.environ:  # pytest was called without develop.py, as editors do
    from posttrain.tools.environment import Environment

    own = Environment(Path(sys.prefix).parent)
    if own.host.is_dir():
        os.environ.update(own.variables() | {"HF_HUB_OFFLINE": "1"})
os.environ.setdefault("OMP_NUM_THREADS", "1")


# files that take minutes: they come first, so that in the end no process is left alone with one
LONG = ("test_other_hosts.py", "test_live.py", "test_elsewhere.py", "test_headless.py", "test_templates.py")


class NoPackages:
    """Every folder is a plain one to pytest.

    It would take the root for a package, for its ``__init__.py``, and import that before the first test; in a folder whose
    name is no Python identifier it would do so as a module without a parent, in which the relative imports fail.
    """

    @staticmethod
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir:
        return pytest.Dir.from_parent(parent, path=path)


def pytest_collection_finish() -> None:
    """Host and tests collect garbage all the time, which need not look at PyTorch, the host and thousands of tests each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from posttrain.tools.sweeps import mark_the_rest

    mark_the_rest(items)
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_configure(config: pytest.Config) -> None:
    # as a plugin of its own: pytest asks a conftest only about what lies below it, and the root lies above
    config.pluginmanager.register(NoPackages())


COMFYUI = os.environ.get("COMFYUI_DIR")
if COMFYUI and COMFYUI not in sys.path:
    sys.path.append(COMFYUI)
    # the host parses sys.argv at import: pytest's own flags must not reach it
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
