"""Other releases of some packages, laid over the environment: a folder that comes before it on the import path.

The pack works with the transformers of 2025 and with today's; the environment has today's. Everything else, torch above
all, stays the environment's own.
"""
from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Callable, Iterable

from .environment import Environment, SetupError, Step, only_one

RELEASES = {"4.57": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.2")}  # exact, with what they refuse


def ensure(env: Environment, release: str) -> Path:
    """The folder to put on PYTHONPATH for a release of RELEASES; made the first time, offline from then on."""
    if release not in RELEASES:
        raise SetupError(f"--transformers: {release} is not known here, only {', '.join(RELEASES)}. Without it, the tests run "
                         "with the release in tools/requirements.txt.")
    pins = RELEASES[release]
    return laid(env, f"transformers-{release}", f"transformers {release}", pins, lambda step: pins)


def laid(env: Environment, name: str, title: str, key: Iterable[str], pins: Callable[[Step], Iterable[str]],
         mend: Callable[[Path], None] = lambda part: None) -> Path:
    """A folder with what ``pins`` names, installed without its requirements; one for each name and key. mend: what is to be
    done to it before it is used."""
    folder = env.folder / f"{name}-{hashlib.sha256(' '.join(key).encode()).hexdigest()[:6]}"
    with only_one(env.folder / "lock"):
        if not folder.is_dir():
            step = Step(env, f"{title}, beside the environment's own", again=False)
            part = folder.with_suffix(".part")
            step.pip("install", "--no-deps", "--upgrade", "--target", str(part), *pins(step))
            mend(part)
            os.replace(part, folder)
            step.finish()
    return folder
