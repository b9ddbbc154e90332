"""The archive for the registry, built by comfy-cli: what is in it, and that nobody is told of it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from posttrain.tools import registry_rules, release
from posttrain.tools.environment import Environment
from posttrain.tools.tree import files

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, str]:
    """The archive, and what the command said."""
    folder = tmp_path_factory.mktemp("release")
    done = subprocess.run([sys.executable, "develop.py", "release", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.iterdir()
    return archive, done.stdout


def test_it_holds_all_that_runs_and_nothing_that_only_develops(built):
    archive, said = built
    names = set(zipfile.ZipFile(archive).namelist())
    inside = tuple(name for name in registry_rules.NEEDED if name.endswith("/"))
    assert {name for name in files() if name.startswith(inside)} <= names  # node pages among them
    assert not {name for name in names if name.startswith(registry_rules.DEVELOPMENT)} and ".comfyignore" not in names
    assert registry_rules.faults(archive) == [] and "The registry's rules hold." in said
    assert f"{len(names)} files" in said and f"{archive.stat().st_size / 1e6:.1f} MB" in said


def test_its_name_is_the_version_which_the_changelog_has(built):
    assert built[0].name == f"posttrain-{release.version()}.zip"
    assert f"## [{release.version()}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_the_owner_fills_in_is_said(built):
    left = registry_rules.placeholders()
    assert all(place in built[1] for place in left) and ("OWNER" in (ROOT / "pyproject.toml").read_text()) == bool(left)


def test_comfy_cli_has_nothing_to_send_with(built):
    place = release.packer(Environment(Path(sys.prefix).parent))  # the command has made it
    assert (place / "comfy_cli").is_dir() and release.SILENT["DO_NOT_TRACK"] == "1"
    assert not [name for name in ("mixpanel", "posthog") if (place / name).exists()]
