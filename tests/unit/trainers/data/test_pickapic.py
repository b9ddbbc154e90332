"""Votes go out in the form of Pick-a-Pic and come back through the pack's own reader of that data set."""

from __future__ import annotations

import sys

import pytest
from PIL import Image
from posttrain.trainers.data.files import read_file
from posttrain.trainers.data.pickapic import write_pickapic
from posttrain.trainers.data.verdicts import read_verdicts
from posttrain.trainers.data.vote_book import VOTES, VoteBook, together

COLUMNS = [
    "are_different",
    "best_image_uid",
    "caption",
    "created_at",
    "has_label",
    "image_0_uid",
    "image_0_url",
    "image_1_uid",
    "image_1_url",
    "jpg_0",
    "jpg_1",
    "label_0",
    "label_1",
    "model_0",
    "model_1",
    "ranking_id",
    "user_id",
    "num_example_per_prompt",
]


def png(number: int, tmp_path) -> bytes:
    Image.new("RGB", (8, 8), (number, 255 - number, 7)).save(tmp_path / "one.png")
    return (tmp_path / "one.png").read_bytes()


@pytest.fixture
def book(tmp_path):
    """40 pairs of 20 prompts, then one that is both bad and one image alone."""
    made = VoteBook(tmp_path / "mine")
    for i in range(41):
        pair = [png(2 * i + side, tmp_path) for side in (0, 1)]
        for data, vote in zip(pair, (1, -1) if i < 40 else (-1, -1)):
            made.add(data, f"prompt {i // 2}", vote, together(pair))
    made.add(png(200, tmp_path), "alone", 1)
    return made


def exported(book, tmp_path):
    pictures, verdicts, skipped = read_verdicts(book.file)
    assert not skipped
    return write_pickapic(pictures, verdicts, tmp_path / "votes.parquet"), tmp_path / "votes.parquet"


def test_the_round_trip_gives_the_same_pairs_as_the_votes_themselves(book, tmp_path):
    pytest.importorskip("pyarrow")
    count, file = exported(book, tmp_path)
    back, direct = read_file(file, 99), read_file(book.file, 99, votes="pairs")

    def said(rows):
        return {(row.prompt, row.winner.read(), row.loser.read()) for row in rows}

    assert count == len(back.rows) == 40 and not back.skipped
    assert said(back.rows) == said(direct.rows)


def test_the_table_is_that_of_the_data_set(book, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    _, file = exported(book, tmp_path)
    table = parquet.read_table(file)
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    firsts = sum(row["label_0"] == 1 for row in rows)
    assert 8 <= firsts <= 32, "the better one is not always on the same side"
    for row in rows:
        assert row["label_0"] + row["label_1"] == 1 and row["are_different"] and row["has_label"]
        assert row["best_image_uid"] == row["image_0_uid" if row["label_0"] else "image_1_uid"]
        assert row["num_example_per_prompt"] == 2 and row["created_at"].year > 2020
    assert [row["ranking_id"] for row in rows] == list(range(40))


def test_a_tie_is_a_half_each_and_is_told_by_the_reader(book, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pair = [png(n, tmp_path) for n in (220, 221)]
    for data in pair:
        book.add(data, "equal", 0, together(pair), tie=True)
    count, file = exported(book, tmp_path)
    row = parquet.read_table(file).to_pylist()[-1]
    assert (
        count == 41 and row["label_0"] == row["label_1"] == 0.5 and row["best_image_uid"] == "tie" and not row["are_different"]
    )
    back = read_file(file, 99)
    assert len(back.rows) == 40 and back.skipped == ("row 41: it is a tie",)


def test_what_cannot_be_written_is_said_and_leaves_the_file_that_was_there(book, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    pictures, verdicts, _ = read_verdicts(book.file)
    file = tmp_path / "votes.parquet"
    file.write_bytes(b"what was there")
    with pytest.raises(ValueError, match="none of them compares two images"):
        write_pickapic(pictures, [v for v in verdicts if v.second is None], file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="'pyarrow' is needed; install it.*votes are safe in votes.jsonl"):
        write_pickapic(pictures, verdicts, file)
    assert file.read_bytes() == b"what was there" and VOTES == "votes.jsonl"
