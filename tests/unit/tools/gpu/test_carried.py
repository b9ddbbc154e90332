"""What a machine without network is given: the host, and every package that torch and transformers do not bring."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from posttrain.tools.environment import SetupError
from posttrain.tools.gpu import carried

ROOT = Path(__file__).resolve().parents[4]
ITERATION = """
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks.gpu import iteration, measure, models, start
start.start()
import comfy.cli_args
comfy.cli_args.args.cpu = True
import torch
here = iteration.world(models.TINY[1], torch.float32, False)
rows = [measure.row(here, kind, measure.Bare(1.0, 1.0, 1)) for kind in measure.trainers()[:3]]
assert not [row for row in rows if row.failed] and [row.evaluations for row in rows] == [24, 24, 48], rows
import pytest
code = pytest.main([sys.argv[1] + "/tests/gpu", "-q", "-p", "no:cacheprovider", "--rootdir", sys.argv[1]])
raise SystemExit(0 if code == 0 else 1)
"""


def archive(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, name)
    return path


def names_in(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as found:
        return set(found.namelist())


def with_all_that_it_asks(name: str, found: dict) -> dict:
    name = re.sub("[-_.]+", "-", name).lower()
    if name not in found:
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            return found
        for line in found[name].requires or ():
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                with_all_that_it_asks(asked.name, found)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="made of symbolic links")
def test_with_torch_and_transformers_nothing_else_is_imported(tmp_path):
    """Every kind of trainer, and the tests marked gpu up to their skip, in a Python that has these packages alone."""
    known = {name: metadata.distribution(name) for name in carried.PACKAGES}
    for name in ("torch", "transformers"):
        with_all_that_it_asks(name, known)
    for each in known.values():
        for top in {file.parts[0] for file in each.files} - {"..", "__pycache__"}:
            place = tmp_path / top
            if not place.is_symlink() and os.path.exists(each.locate_file(top)):
                place.symlink_to(each.locate_file(top))
    variables = {
        "PYTHONPATH": str(tmp_path),
        "COMFYUI_DIR": os.environ["COMFYUI_DIR"],
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys._base_executable, "-S", "-P", "-c", ITERATION, str(ROOT)],
        capture_output=True,
        text=True,
        env=variables,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"\d+ skipped", done.stdout)


def test_the_host_travels_without_what_a_run_does_not_read(tmp_path):
    kept = {"main.py", "comfy/ldm/models/autoencoder.py", "comfy/sd1_tokenizer/vocab.json"}
    for name in (*kept, "models/put_models_here", "tests/test_a.py", "comfy/__pycache__/a.pyc", "custom_nodes/a.py"):
        (tmp_path / "host" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "host" / name).touch()
    carried.pack_host(tmp_path / "host", tmp_path / "host.zip")
    assert names_in(tmp_path / "host.zip") == kept


def test_the_pinned_host_is_small_enough_beside_the_packages(tmp_path):
    carried.pack_host(Path(os.environ["COMFYUI_DIR"]), tmp_path / "host.zip")
    assert {"comfy/sd.py", "folder_paths.py", "comfyui_version.py"} <= names_in(tmp_path / "host.zip")
    assert carried.held_to(carried.LIMIT // 4, tmp_path) > 1_000_000


def test_more_than_may_travel_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "small").write_bytes(bytes(2_000_000))
    (tmp_path / "large").write_bytes(bytes(4_000_000))
    assert carried.held_to(6_000_000, tmp_path) == 6_000_000
    with pytest.raises(SetupError, match="6 MB, and 5 MB may travel; the largest is large.*--has"):
        carried.held_to(5_999_999 - 1_000_000, tmp_path)


def test_wheels_lose_their_tests_and_torchvision_what_is_compiled(tmp_path):
    both = ("a/__init__.py", "a/_C.so", "a.libs/b.so.1", "a/tests/test_a.py")
    for name, kept in (("torchvision-1-cp311-cp311-x.whl", {"a/__init__.py"}), ("scipy-1-cp311-cp311-x.whl", set(both[:3]))):
        carried.lean(archive(tmp_path / name, *both), tmp_path / "lean.zip")
        assert names_in(tmp_path / "lean.zip") == kept


def made_folder(place: Path, python: str = "{}{}".format(*sys.version_info[:2])) -> Path:
    archive(place / carried.HOST, "main.py")
    archive(place / carried.FOLDER / f"scipy-1.0-cp{python}-cp{python}-x.zip", "scipy/__init__.py")
    archive(place / carried.FOLDER / "charset_normalizer-3.0-py3-none-any.zip", "charset_normalizer/__init__.py")
    return place


def lacks(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(carried, "has", lambda module: module not in names)


def test_only_what_a_python_lacks_is_laid_out(tmp_path, monkeypatch):
    lacks(monkeypatch, "charset_normalizer")
    host, packages = carried.laid_out(made_folder(tmp_path / "a"), tmp_path / "b")
    assert (host / "main.py").is_file() and [path.name for path in packages.iterdir()] == ["charset_normalizer"]
    lacks(monkeypatch)
    assert not list(carried.laid_out(tmp_path / "a", tmp_path / "c")[1].iterdir())


def test_a_folder_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SetupError, match="--from: .* was not made by --pack"):
        carried.laid_out(tmp_path, tmp_path / "b")
    folder = made_folder(tmp_path / "a", "39")
    for lacking, words in (
        ("scipy", "packed for Python 3.9, and this is 3.*--for-python 3"),
        ("PIL", "pillow is neither in"),
        ("torch", "has no torch; run this with a Python"),
        ("transformers", "has no transformers"),
    ):
        lacks(monkeypatch, lacking)
        with pytest.raises(SetupError, match=words):
            carried.laid_out(folder, tmp_path / "b")


def test_what_cannot_be_packed_is_refused_before_anything_is_downloaded(tmp_path):
    env = SimpleNamespace(host=tmp_path)
    with pytest.raises(SetupError, match="--has: scikit is not carried; that could be pillow"):
        carried.pack(env, tmp_path / "new", "3.12", ["scipy", "scikit"])
    with pytest.raises(SetupError, match="--pack: .* exists already"):
        carried.pack(env, tmp_path, "3.12")


def test_a_pack_is_whole_or_not_there(tmp_path, monkeypatch):
    """With wheels as pip would have left them."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "main.py").touch()
    monkeypatch.setattr(
        carried,
        "downloaded",
        lambda env, folder, python, names: [archive(folder / f"{name}-1.0-py3-none-any.whl", f"{name}.py") for name in names],
    )
    env = SimpleNamespace(host=tmp_path / "host")
    size = carried.pack(env, tmp_path / "new", "3.12", ["scipy"])
    made = {path.name.split("-")[0] for path in (tmp_path / "new" / carried.FOLDER).iterdir()}
    assert made == {name.split("-")[0] for name in carried.PACKAGES} - {"scipy"} and size > 0
    monkeypatch.setattr(carried, "LIMIT", 100)
    with pytest.raises(SetupError, match="may travel"):
        carried.pack(env, tmp_path / "more", "3.12")
    assert not (tmp_path / "more").exists()
