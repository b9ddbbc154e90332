"""Other packs beside this one: which there are in a folder, where they are linked, and which did not load."""

from __future__ import annotations

import pytest
from posttrain.tools import beside
from posttrain.tools.environment import SetupError
from posttrain.tools.host import PACK, ROOT, prepare_base


@pytest.fixture
def folder(tmp_path):
    """Two packs, and what is none."""
    place = tmp_path / "packs"
    for name in ("b pack", "a-pack", "c.disabled"):
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (place / "notes").mkdir()
    (place / "README.md").touch()
    return place


def test_packs_are_those_that_comfyui_would_load(folder):
    assert [pack.name for pack in beside.packs(folder)] == ["a-pack", "b pack"]


def test_they_are_linked_beside_ours(folder, tmp_path, monkeypatch, capsys):
    assert beside.OURS == PACK
    monkeypatch.delenv(beside.VARIABLE, raising=False)
    assert beside.asked() == []
    for name, value in beside.variables(str(folder)).items():
        monkeypatch.setenv(name, value)
    assert capsys.readouterr().out == "Beside 2 packs: a-pack, b pack\n"
    prepare_base(tmp_path / "base", beside.asked())
    linked = {place.name: place.resolve() for place in (tmp_path / "base" / "custom_nodes").iterdir()}
    assert linked == {PACK: ROOT, "a-pack": folder / "a-pack", "b pack": folder / "b pack"}


def test_what_cannot_be_linked_is_refused(folder, tmp_path):
    with pytest.raises(SetupError, match="--beside: .*nowhere is no folder"):
        beside.variables(str(tmp_path / "nowhere"))
    with pytest.raises(SetupError, match="--beside: .*holds no pack"):
        beside.variables(str(folder / "notes"))
    (folder / PACK).mkdir()
    (folder / PACK / "__init__.py").touch()
    with pytest.raises(SetupError, match=f"--beside: .*holds {PACK}, whose place this pack takes"):
        beside.variables(str(folder))


def test_packs_that_did_not_load_are_read_from_the_log():
    log = "Import times for custom nodes:\n   0.1 seconds: /base/custom_nodes/a\n   0.2 seconds (IMPORT FAILED): /base/custom_nodes/b pack\n"
    assert beside.not_loaded(log) == ["b pack"]
