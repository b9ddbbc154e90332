"""Each rule of the registry, broken: it is named, with the file and the line."""

from __future__ import annotations

import zipfile

import pytest
from posttrain.tools import registry_rules
from posttrain.tools.environment import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYTHON = {
    "eval(x)": "calls eval",
    "exec(code)": "calls exec",
    "__import__('os')": "calls __import__",
    "import subprocess": "imports subprocess",
    "from subprocess import run": "imports subprocess",
    "os.system('pip')": "has os.system",
    "'pip install x'": "has pip install",
    "import marshal": "imports marshal",
    "a = 1; b = 2": "several statements",
    "torch.load(f, weights_only=False)": "weights_only=False",
    "x = '" + "A" * 250 + "'": "data in the place of words",
    "x = '" + r"\x41" * 9 + "'": "data in the place of words",
    "x = " + "+ 1 " * 90: "characters long",
}
SCRIPTS = {
    "eval(x)": "eval(",
    "new Function('x')": "new Function(",
    "a.innerHTML = b": ".innerHTML",
    "await import('https://x')": "import('https:",
}


def archive(place, **changed: str):
    """An archive with what a pack needs, and ``changed`` files."""
    path = place / "pack.zip"
    texts = {name if not name.endswith("/") else f"{name}one.md": "" for name in registry_rules.NEEDED}
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in (texts | {"pyproject.toml": PROJECT} | changed).items():
            packed.writestr(name, text)
    return path


def test_a_pack_that_keeps_them_has_no_fault(tmp_path):
    assert registry_rules.faults(archive(tmp_path, **{"nodes/a.py": "x = 'eval; exec'  # eval; exec\n"})) == []


@pytest.mark.parametrize("line", PYTHON)
def test_python(tmp_path, line):
    (fault, *_) = registry_rules.faults(archive(tmp_path, **{"nodes/a.py": f"# a\n{line}\n"}))
    assert fault.startswith("nodes/a.py:2 ") and PYTHON[line] in fault


@pytest.mark.parametrize("line", SCRIPTS)
def test_scripts(tmp_path, line):
    (fault,) = registry_rules.faults(archive(tmp_path, **{"web/a.js": f"{line}\n"}))
    assert fault.startswith("web/a.js:1 ") and SCRIPTS[line] in fault


@pytest.mark.parametrize("name", ["tests/a.py", "tools/a.py", "docs/a.md", "nodes/a.pyd", "nodes/a.so", "install.py",
                                  "requirements.txt", ".gitignore", "nodes/__pycache__/a.py", "web/ONE.md"])  # fmt: skip
def test_files_that_do_not_belong_there(tmp_path, name):
    faults = registry_rules.faults(archive(tmp_path, **{name: ""}))
    assert faults and all(name.lower() in fault.lower() for fault in faults)


@pytest.mark.parametrize("name", registry_rules.NEEDED)
def test_a_part_that_is_missing(tmp_path, name):
    whole, less = archive(tmp_path), tmp_path / "less.zip"
    with zipfile.ZipFile(whole) as packed, zipfile.ZipFile(less, "w") as kept:
        for each in packed.namelist():
            if not each.startswith(name):
                kept.writestr(each, packed.read(each))
    assert f"{name} is missing" in registry_rules.faults(less)


@pytest.mark.parametrize("old, new, words", [
    ('name = "posttrain"', 'name = "ComfyUI-PostTrain"', "no registry id"),
    ('name = "posttrain"', 'name = "1train"', "no registry id"),
    ('name = "posttrain"', 'name = "post--train"', "no registry id"),
    ('version = "1', 'version = "v1', "not X.Y.Z"),
    ("Repository =", "Source =", "Repository is missing"),
    ("PublisherId =", "Publisher =", "PublisherId is missing"),
    ("requires-comfyui =", "requires =", "requires-comfyui is missing"),
    ("images/icon.png", "images/no.png", "Icon does not lead"),
    ("images/icon.png", "images/banner.png", "Icon has not the size"),
    ("images/banner.png", "images/icon.png", "Banner has not the size"),
])  # fmt: skip
def test_pyproject(tmp_path, old, new, words):
    assert old in PROJECT
    (fault,) = registry_rules.faults(archive(tmp_path, **{"pyproject.toml": PROJECT.replace(old, new)}))
    assert words in fault


def test_an_archive_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(registry_rules, "LARGEST", 100)
    (fault,) = registry_rules.faults(archive(tmp_path))
    assert fault.startswith("pack.zip has ")
