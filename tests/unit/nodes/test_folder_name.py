from __future__ import annotations

import logging

import pytest
from posttrain.nodes.folder_name import unserved_characters, warn_of_folder_name


@pytest.mark.parametrize("name", ["ComfyUI-PostTrain", "comfyui-posttrain", "posttrain", "ComfyUI-PostTrain-main",
                                  "comfyui_posttrain", "ComfyUI-PostTrain.old", "ComfyUI-PostTrain(1)"])
def test_good_names_are_passed_over_in_silence(caplog, name):
    warn_of_folder_name(name)
    assert unserved_characters(name) == "" and not caplog.records


@pytest.mark.parametrize("name, wrong", [("my folder", " "), ("PostTrain [2] [old]", " []"), ("50%", "%"), ("后训练", "后训练"),
                                         ("a#b?c", "#?"), ("é{x}", "é{}")])
def test_others_are_named_once_with_what_to_rename(caplog, name, wrong):
    with caplog.at_level(logging.WARNING):
        warn_of_folder_name(name)
    (record,) = caplog.records
    assert unserved_characters(name) == wrong
    assert repr(name) in record.getMessage() and "Rename the folder, to ComfyUI-PostTrain" in record.getMessage()
