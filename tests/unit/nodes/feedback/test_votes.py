"""Export Votes writes beside the votes, and Pairs from File may read it there."""

from __future__ import annotations

import folder_paths
import pytest
from posttrain.nodes.feedback.data import PTPairsFile
from posttrain.nodes.feedback.votes import PTExportVotes
from posttrain.nodes.rewards.person import votes_folder
from posttrain.rewards.base.pixels import png_bytes
from posttrain.trainers.data.again import Returns
from posttrain.trainers.data.vote_book import SeenPair, VoteBook, together

from ...rewards.networks import picture


def test_votes_go_out_and_come_back_through_the_nodes(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    book = VoteBook(votes_folder("mine"))
    for i in range(3):
        pair = [png_bytes(picture(16, 16, 2 * i + side)[0]) for side in (0, 1)]
        for data, vote in zip(pair, (1, -1) if i < 2 else (-1, -1)):
            book.add(data, f"prompt {i}", vote, together(pair))
    file, text = PTExportVotes().run("mine")["result"]
    assert text.startswith("2 pairs and ties in pickapic.parquet of posttrain_votes/mine\n1 entry was left out:")
    assert "2 votes on single images" in text
    Returns(book.folder).note("a 0", SeenPair("p", "prompt 0", (book.file, book.file), (1, -1)), True)
    lines = [text.splitlines()[0], "Pairs that came back turned round, answered alike: 1 of 1.", *text.splitlines()[1:]]
    assert PTExportVotes().run("mine")["result"][1].splitlines() == lines
    pairs, summary = PTPairsFile().run(file, 99, "")["result"]
    assert summary == "2 pairs from file pickapic.parquet" and {row.prompt for row in pairs.rows} == {"prompt 0", "prompt 1"}
    with pytest.raises(ValueError, match="no votes in 'other'"):
        PTExportVotes().run("other")
    assert PTExportVotes.VALIDATE_INPUTS("../x") is not True and PTExportVotes.IS_CHANGED("other") == "missing"
