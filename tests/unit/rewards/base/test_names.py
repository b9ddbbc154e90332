"""Names on other systems than this one: Windows' own reader of paths, disks that fold case, accents, long paths. And every
place in which a typed name becomes a file or a folder."""

from __future__ import annotations

import errno
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
import torch
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.nodes.model.export import checked_name, free_path
from posttrain.nodes.page.shelf import rename
from posttrain.rewards.base import names
from posttrain.trainers.run.folder import CONTINUE, Run, check_name, run_state
from safetensors.torch import save_file

E_ACUTE = ("caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9"))
NO_NAMES = ("con", "NUL", "Com1", "lpt9.txt", "aux .x", "CONIN$", "a:b", "a.", "a ", "..", ".", "", " ", "a\x00b", "a\nb", "a|b",
            "a*b", "what?", "<a>", 'say "a"', "\ud800")  # fmt: skip
NAMES = ("my run", "run-2_b", "console", "nul-run", "company1", "a.b", "跑", *E_ACUTE, "x" * 80)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_taken_is_one_folder_on_windows(name):
    place = PureWindowsPath("C:/ComfyUI/output") / name
    assert place.parent == PureWindowsPath("C:/ComfyUI/output") and place.name == name and not place.is_reserved()
    assert names.possible(name) and check_name(name) == name and checked_name(name) == name


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_some_system_cannot_have_is_refused_everywhere(name):
    assert not names.possible(name) or name in (".", "..")
    for checked in (check_name, checked_name, lambda text: checked_name(f"folder/{text}")):
        if name != "a " or checked is check_name:  # spaces around a file's name are no part of it
            with pytest.raises(ValueError):
                checked(name)


def test_a_backslash_leads_nowhere_in_a_run_and_is_a_folder_in_a_lora():
    with pytest.raises(ValueError, match="run_name"):
        check_name("..\\x")
    assert checked_name("a\\b") == "a/b"
    for way_out in ("..\\x", "a\\..\\x", "C:\\x", "\\\\server\\x", "/x"):
        with pytest.raises(ValueError):
            checked_name(way_out)


def typed_names() -> list[tuple[str, str]]:
    """(node, input) of every text that the pack takes for a name to write under."""
    found = []
    for node, kind in NODE_CLASS_MAPPINGS.items():
        for inputs in kind.INPUT_TYPES().values():
            found += [(node, name) for name, what in inputs.items()
                      if isinstance(what, tuple) and what[0] == "STRING" and name.endswith("_name")]  # fmt: skip
    return found


def test_every_input_that_is_a_name_refuses_what_is_none():
    found = typed_names()
    assert {name for _, name in found} >= {"run_name", "votes_name", "file_name"} and len(found) >= 5
    for node, name in found:
        for wrong in ("con", "a:b", "a.", "a\x00b"):
            assert NODE_CLASS_MAPPINGS[node].VALIDATE_INPUTS(**{name: wrong}) is not True, (node, wrong)
        assert NODE_CLASS_MAPPINGS[node].VALIDATE_INPUTS(**{name: "my name"}) is True


def opened(root: Path, name: str) -> Run:
    return Run.open(root, name, {"a": 1}, CONTINUE)


def test_a_run_that_differs_in_case_alone_is_refused_by_name(tmp_path):
    opened(tmp_path, "Stra\u00dfe").close()
    with pytest.raises(
        ValueError, match="run_name: there is 'Stra\u00dfe' already, and on Windows and macOS 'STRASSE' is the same"
    ):
        opened(tmp_path, "STRASSE")
    assert [path.name for path in tmp_path.iterdir()] == ["Stra\u00dfe"]


def test_runs_of_both_spellings_that_are_there_go_on(tmp_path):
    for name in ("run", "Run"):
        (tmp_path / name).mkdir()
    for name in ("run", "Run"):
        run = opened(tmp_path, name)
        assert run.name == name
        run.close()


@pytest.mark.parametrize("there, typed", [E_ACUTE, E_ACUTE[::-1]])
def test_accents_written_otherwise_are_the_same_run(tmp_path, there, typed):
    run = opened(tmp_path, there)
    run.close()
    again = opened(tmp_path, typed)
    assert again.folder == run.folder and len(list(tmp_path.iterdir())) == 1
    assert run_state(tmp_path, typed) == run_state(tmp_path, there) == f"{again.config['id']} 0"
    again.close()


def test_a_run_is_not_renamed_to_another_ones_name_in_other_case(tmp_path):
    for name in ("one", "Two"):
        opened(tmp_path, name).close()
    with pytest.raises(ValueError, match="there is a run"):
        rename("one", "TWO", tmp_path)
    assert rename("one", "One", tmp_path) == "One" and {path.name for path in tmp_path.iterdir()} == {"One", "Two"}


def test_a_lora_does_not_take_anothers_name_in_other_case(tmp_path):
    mine, others = {"a": torch.ones(1)}, {"a": torch.zeros(1)}
    save_file(others, tmp_path / "Style.safetensors")
    assert free_path(tmp_path / "style.safetensors", mine).name == "style_2.safetensors"
    assert free_path(tmp_path / "style.safetensors", others).name == "style_2.safetensors"
    assert free_path(tmp_path / "Style.safetensors", others).name == "Style.safetensors"
    assert free_path(tmp_path / "other.safetensors", mine).name == "other.safetensors"


def windows(path: Path) -> None:
    """What Windows answers to a path that is too long for it."""
    raise FileNotFoundError(errno.ENOENT, "The system cannot find the path specified", str(path))


def test_a_path_that_windows_does_not_take_is_refused_before_anything_is_trained(tmp_path):
    deep = tmp_path / ("d" * 120) / ("e" * 120) / "state"
    with pytest.raises(ValueError, match=rf"run_name: this system takes no path of {len(str(deep))} characters"):
        names.check_length(deep, "run_name", windows)
    names.check_length(tmp_path / "short", "run_name", windows)
    names.check_length(deep, "run_name")  # this system takes it, and nothing is left of the try
    assert not list(tmp_path.iterdir())


def test_a_run_in_a_folder_too_deep_for_this_system_says_so(tmp_path):
    root = tmp_path
    while len(str(root)) < 3900:
        root = root / ("d" * 150)
    root = root / ("d" * (4060 - len(str(root)) - 1))
    with pytest.raises(ValueError, match="run_name: this system takes no path of"):
        opened(root, "my run")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_not_called_a_long_path(tmp_path):
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    names.check_length(tmp_path / ("d" * 250) / "x", "run_name", full)
