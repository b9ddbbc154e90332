"""Picture Distance: which network and which pictures, and what is missing, in words."""

from __future__ import annotations

import pytest
from PIL import Image
from posttrain.nodes.loop.held_out import PTEvaluateWhileTraining
from posttrain.nodes.sampling.distance import CLIP, DEMO, INCEPTION, NETWORKS, PTPictureDistance, pictures_of
from posttrain.rewards.base.prompt import Prompt
from posttrain.rewards.rules.colour import ColourReward
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.run.held_out import LAST
from posttrain.trainers.sampling.settings import Sampling


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten pictures in the input folder's "mine"."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    place = tmp_path / "input" / "mine"
    place.mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"{number}.png")
    return place


@pytest.mark.parametrize("network, file, size", [(CLIP, "clip-vit-large-patch14.safetensors", "1.7 GB"),
                                                 (INCEPTION, "pt_inception-2015-12-05-6726825d.pth", "96 MB")])  # fmt: skip
def test_a_missing_file_is_named_with_its_place_and_size(network, file, size, models):
    with pytest.raises(FileNotFoundError) as error:
        PTPictureDistance().run(network, "auto", "", 100)
    assert file in str(error.value) and size in str(error.value) and str(models) in str(error.value)


def test_the_demo_world_needs_no_file(models):
    (found,) = PTPictureDistance().run(DEMO, "auto", "", 100)
    assert found.pictures == () and found.name == "demo CLIP"
    assert {CLIP, INCEPTION, DEMO} == set(NETWORKS)


def test_a_limit_takes_pictures_from_all_over_the_folder(folder):
    (found,) = PTPictureDistance().run(DEMO, "auto", " mine ", 4)
    assert [int(path.stem) for path in found.pictures] == [0, 2, 5, 7]
    assert len(pictures_of("mine", 100)) == 10 and pictures_of("", 5) == []


def test_a_folder_that_cannot_serve_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="folder: nothing does not exist|folder: 'nothing'"):
        pictures_of("nothing", 5)
    with pytest.raises(ValueError, match="folder: .* lies outside of ComfyUI's input folder"):
        pictures_of(str(tmp_path), 5)
    for file in list(folder.iterdir())[1:]:
        file.unlink()
    with pytest.raises(ValueError, match="folder: it holds one picture; a distance needs 2"):
        pictures_of("mine", 5)


def test_a_changed_folder_is_measured_anew(folder):
    same = PTPictureDistance.IS_CHANGED("mine")
    assert same == PTPictureDistance.IS_CHANGED("mine") and PTPictureDistance.IS_CHANGED("") == ""
    Image.new("RGB", (8, 8)).save(folder / "new.png")
    assert PTPictureDistance.IS_CHANGED("mine") != same
    assert PTPictureDistance.IS_CHANGED(None) != PTPictureDistance.IS_CHANGED(None), "a wired name is not known yet"


def test_what_evaluates_while_training_measures_it_too():
    (found,) = PTPictureDistance().run(DEMO, "auto", "", 100)
    prompts = PromptSet((Prompt("a red ball"),))
    given = (prompts, object(), ColourReward("brightness"), Sampling(), 10, LAST)
    assert PTEvaluateWhileTraining().run(*given, distance=found)[0].embedding is found
    assert PTEvaluateWhileTraining().run(*given)[0].embedding is None
