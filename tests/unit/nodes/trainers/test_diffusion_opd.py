"""The nodes of DiffusionOPD: what becomes of their widgets and wires, and what is refused before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace

import folder_paths
import pytest
import safetensors.torch
import torch
from posttrain.nodes.loop.settings import settings_of
from posttrain.nodes.trainers.diffusion_opd import PTDiffusionOPD, PTTeacher
from posttrain.trainers.diffusion_opd import DiffusionOPD, Teacher


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """models/loras with one file in it."""
    names = dict(folder_paths.folder_names_and_paths)
    names["loras"] = ([str(tmp_path)], {".safetensors", ".pt"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", names)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    safetensors.torch.save_file({"a.lora_up.weight": torch.ones(2, 1)}, tmp_path / "counts.safetensors", {"mine": "yes"})
    (tmp_path / "old.pt").write_bytes(b"")
    return tmp_path


def test_teachers_form_a_chain(loras):
    policy = SimpleNamespace()
    (first,) = PTTeacher().run("counts.safetensors", " two, three ，四,", 4.5)
    (both,) = PTTeacher().run("none", "", 0.0, policy=policy, others=first)
    assert [teacher.words for teacher in both] == [("two", "three", "四"), ()] and both[1].policy is policy
    assert (both[0].name, both[0].guidance, both[0].metadata) == ("counts.safetensors", 4.5, {"mine": "yes"})
    assert torch.equal(both[0].lora["a.lora_up.weight"], torch.ones(2, 1))
    (trainer,) = PTDiffusionOPD().run(learning_rate=1e-3, weighting="step means", teacher=both)
    assert trainer.settings == DiffusionOPD("step means", both) and trainer.optimizer.learning_rate == 1e-3
    (alone,) = PTDiffusionOPD().run(weighting="predictions")
    assert alone.settings.teachers == (), "which the train step refuses by name"


@pytest.mark.parametrize(
    "lora, policy, words",
    [("none", None, "no file is chosen and no policy"), ("counts.safetensors", Teacher("x"), "a file is chosen and a policy")],
)
def test_a_teacher_is_a_file_or_a_policy(loras, lora, policy, words):
    with pytest.raises(ValueError, match=f"^lora: {words} is connected; a teacher is one of the two"):
        PTTeacher().run(lora, "", 0.0, policy=policy)


@pytest.mark.parametrize("name", ["old.pt", "gone.safetensors"])
def test_files_that_are_not_read(loras, name):
    assert PTTeacher.VALIDATE_INPUTS(lora=name).startswith("lora: ") and PTTeacher.VALIDATE_INPUTS(lora="none") is True
    with pytest.raises(ValueError, match="^lora: "):
        PTTeacher().run(name, "", 0.0)


def test_a_run_and_the_host_know_a_teacher_by_what_the_file_holds(loras):
    graph = {
        "1": {"class_type": "PTTeacher", "inputs": {"lora": "counts.safetensors", "words": "two"}},
        "2": {"class_type": "PTDiffusionOPD", "inputs": {"teacher": ["1", 0]}},
        "3": {"class_type": "PTTrain", "inputs": {"trainer": ["2", 0]}},
    }
    first, known = settings_of(graph, "3", ("trainer",)), PTTeacher.IS_CHANGED(lora="counts.safetensors")
    assert first["PTTeacher.lora"].startswith("sha256:") and first["PTTeacher.words"] == "two"
    safetensors.torch.save_file({"a.lora_up.weight": torch.zeros(2, 1)}, loras / "counts.safetensors")
    assert settings_of(graph, "3", ("trainer",)) != first and PTTeacher.IS_CHANGED(lora="counts.safetensors") != known
    assert PTTeacher.IS_CHANGED() == "none"
