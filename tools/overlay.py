"""Other releases of some packages, laid over the environment: a folder that comes before it on the import path.

The pack works with the transformers of 2025 and with today's; the environment has today's. Everything else, torch above
all, stays the environment's own.
"""
from __future__ import annotations

import hashlib
import os
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Callable, Iterable

from .environment import ROOT, Environment, SetupError, Step, only_one

RELEASES = {"4.57": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.2")}  # exact, with what they refuse

LOWEST, NEWEST = "lowest", "newest"
# what the lowest ones want older than the environment has it, and what that wants in turn
BESIDE_LOWEST = ("tokenizers==0.22.2", "huggingface-hub==0.36.2", "httpx==0.28.1", "httpcore==1.0.9")
HOSTS = ("transformers",)  # ComfyUI brings it, and its newest release wants more that is new

# another trainer, which benchmarks measure the pack beside, and what it imports
PEERS = ("trl==0.23.1", "datasets==5.2.0", "dill==0.4.1", "fsspec==2026.9.0", "multiprocess==0.70.19", "pandas==3.1.1",
         "pyarrow==26.0.1", "python-dateutil==4.0.0", "pytz==2026.6", "six==1.17.0", "tzdata==2026.6", "xxhash==4.1.0")


def peers(env: Environment) -> Path:
    """The folder to put on PYTHONPATH for benchmarks/costs/peers.py."""
    return laid(env, "peers", "what benchmarks measure the pack beside", PEERS, lambda step: PEERS)

# what a run is written for, and what each of them imports that the environment does not have
TRACKERS = ("tensorboard==2.19.0", "absl-py==2.1.0", "grpcio==1.71.0", "markdown==3.7", "werkzeug==3.1.3", "protobuf==5.29.4",
            "tensorboard-data-server==0.7.2", "wandb==0.19.11", "click==8.1.8", "platformdirs==4.3.7", "sentry-sdk==2.27.0",
            "setproctitle==1.3.5", "docker-pycreds==0.4.0", "gitpython==3.1.44", "gitdb==4.0.12", "smmap==5.0.2", "six==1.17.0")


def trackers(env: Environment) -> Path:
    """The folder to put on PYTHONPATH for what trainers/run/trackers.py writes with."""
    return laid(env, "trackers", "TensorBoard and Weights & Biases", TRACKERS, lambda step: TRACKERS)


# what starts the same run on a cluster, and what it imports that the environment does not have
RAY = ("ray==2.60.0", "jsonschema==4.26.0", "jsonschema-specifications==2025.9.1", "msgpack==1.2.4", "pandas==3.1.1",
       "referencing==0.37.0", "rpds-py==2026.9.1", "tensorboardX==2.6.5")


def ray(env: Environment) -> Path:
    """The folder to put on PYTHONPATH for tests/ray."""
    return laid(env, "ray", "Ray", RAY, lambda step: RAY)


# an object store of this machine, and what it imports that neither of the two has
STORE = ("moto==5.2.5", "boto3==1.44.8", "botocore==1.44.8", "s3transfer==0.19.3", "jmespath==1.1.0", "flask==3.1.3",
         "flask-cors==6.0.5", "werkzeug==3.1.9", "itsdangerous==2.2.0", "blinker==1.9.0", "click==8.5.1", "xmltodict==1.0.4",
         "responses==0.26.3", "py-partiql-parser==0.6.3", "python-dateutil==2.9.0.post0", "six==1.17.0", "cryptography==50.0.2",
         "cffi==2.1.1", "pycparser==3.12")


def store(env: Environment) -> Path:
    """The folder to put on PYTHONPATH for the object store that tests/ray starts."""
    return laid(env, "store", "an object store", STORE, lambda step: STORE)


def libraries(env: Environment, which: str) -> Path:
    """The folder to put on PYTHONPATH for the optional packages of pyproject.toml, at their lower bounds or the newest."""
    if which == LOWEST:
        pins = (*lower_bounds(), *BESIDE_LOWEST)
        return laid(env, "libraries-lowest", "optional packages at their lower bounds", pins, lambda step: pins)
    if which != NEWEST:
        raise SetupError(f"--libraries: {which} is not known here, only {LOWEST} and {NEWEST}. Without it, the tests run with "
                         "the releases in tools/requirements.txt.")
    names = [re.match(r"[\w-]+", each)[0] for each in optional_packages()]
    pins = tuple(name for name in names if name not in HOSTS)
    return laid(env, "libraries-newest", "the newest optional packages", (*pins, date.today().isoformat()), lambda step: pins)


def optional_packages() -> list[str]:
    """Every requirement of the groups in pyproject.toml, once."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return sorted({each for packages in groups.values() for each in packages})


def lower_bounds() -> list[str]:
    """The same as exact pins of the oldest release that each allows."""
    return [each.replace(">=", "==") for each in optional_packages()]


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
