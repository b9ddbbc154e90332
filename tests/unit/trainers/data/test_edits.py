"""Edits from folders and tables: what is read, what is left out and why, and what cannot be read at all."""

from __future__ import annotations

import os

import pytest
import torch
from PIL import Image
from posttrain.trainers.data.edits import read_edits


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("a.png", "red"), ("b.jpg", "blue"), ("c.png", "green")):
        Image.new("RGB", (12, 8), colour).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("paint it {blue|green}\n\nremove it // a comment\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("paint it red", encoding="utf-8")
    return tmp_path


def test_a_folder_gives_each_line_with_its_picture(folder):
    prompts, report = read_edits(folder, 100)
    assert [(p.text, p.source.name) for p in prompts.prompts] == [
        ("paint it blue", "a.png"), ("paint it green", "a.png"), ("remove it", "a.png"), ("paint it red", "b.jpg")]  # fmt: skip
    assert torch.equal(prompts.prompts[0].source.read(), torch.tensor([1.0, 0, 0]).expand(8, 12, 3))
    assert report.startswith("4 edits of 2 pictures\n1 row was left out:") and "c.png: there is no c.txt beside it" in report
    assert len(read_edits(folder, 2)[0]) == 2


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_table_names_pictures_from_its_own_folder(folder, kind):
    rows = [("a.png", "paint it blue"), ("missing.png", "x"), ("a.png", ""), ("../a.png", "y"), ("b.jpg", "paint it red")]
    table = folder / f"edits.{kind}"
    if kind == "jsonl":
        lines = [f'{{"source": "{source}", "instruction": "{words}", "kind": "paint"}}' for source, words in rows]
    else:
        stop = {"csv": ",", "tsv": "\t"}[kind]
        lines = [stop.join(("Source", "target", "instruction")), *(stop.join((s, "t.png", w)) for s, w in rows)]
    table.write_text("\n".join(lines), encoding="utf-8")
    prompts, report = read_edits(table, 100)
    assert [(p.text, p.source.name) for p in prompts.prompts] == [("paint it blue", "a.png"), ("paint it red", "b.jpg")]
    for why in ("missing.png does not exist", 'it has no "instruction"', "lies outside of the folder of this file"):
        assert why in report
    assert (prompts.prompts[0].spec or {}).get("kind") == ("paint" if kind == "jsonl" else None)
    assert ("Columns that are not used: target." in report) == (kind != "jsonl")


def test_a_picture_that_changes_is_another(folder):
    first, same = (read_edits(folder, 100)[0].prompts[0] for _ in range(2))
    assert first == same and first.key == same.key
    os.utime(folder / "a.png", ns=(1, 1))
    other = read_edits(folder, 100)[0].prompts[0]
    assert other != first and other.key != first.key and other.text == first.text


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("nothing", None, "nothing does not exist"),
        ("edits.txt", b"x", "neither a folder of pictures with .txt files nor a .csv"),
        ("edits.csv", b"picture,words\na,b\n", "needs a column called source and .* its first row is picture"),
        ("edits.csv", b"source,instruction\n", "holds no picture with words"),
        ("edits.csv", "source,instruction\na,ä".encode("latin1"), "is not UTF-8 text"),
        ("edits.jsonl", b'{"source": "no.txt", "instruction": "x"}', "no.txt does not exist"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s)^folder_or_table: .*{message}"):
        read_edits(tmp_path / name, 10)


def test_a_damaged_picture_is_left_out_by_name(folder):
    (folder / "b.jpg").write_bytes(b"no picture")
    assert "b.jpg: its picture b.jpg cannot be read" in read_edits(folder, 10)[1]
