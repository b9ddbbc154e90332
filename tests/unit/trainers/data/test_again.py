"""A tenth of the pairs comes back, each once, and what is answered then is counted and is no vote."""

from __future__ import annotations

import pytest
from posttrain.trainers.data.again import Returns
from posttrain.trainers.data.vote_book import VoteBook


def book_of(folder, pairs: int) -> VoteBook:
    book = VoteBook(folder)
    for n in range(pairs):
        book.add(b"left %d" % n, "a cat", 1, f"pair {n}", place=0)
        book.add(b"right %d" % n, "a cat", -1, f"pair {n}", place=1)
    return book


@pytest.mark.parametrize("judged, sheets, back", [(9, 40, 0), (10, 40, 1), (39, 40, 3), (40, 4, 1), (40, 0, 0)])
def test_a_tenth_of_the_judged_pairs_comes_back_and_at_most_a_tenth_of_a_question(tmp_path, judged, sheets, back):
    pairs = book_of(tmp_path, judged).pairs()
    found = Returns(tmp_path).due(pairs, sheets)
    assert len(pairs) == judged and len(found) == len({pair.id for pair in found}) == back


def test_no_pair_comes_back_twice_and_the_answers_are_there_tomorrow(tmp_path):
    pairs, returns = book_of(tmp_path, 20).pairs(), Returns(tmp_path)
    assert returns.consistency().text() == ""
    (first,) = returns.due(pairs, 10)
    returns.note("x 0", first, False)
    returns.note("x 0", first, True)  # changed with Back
    (second,) = Returns(tmp_path).due(pairs, 10)
    assert second.id != first.id
    with open(tmp_path / "again.jsonl", "a") as file:
        file.write('{"id": "half a l')
    Returns(tmp_path).note("y 0", second, False)
    again = Returns(tmp_path)
    assert again.due(pairs, 10) == []
    assert again.consistency().text() == "Pairs that came back turned round, answered alike: 1 of 2."


def test_what_counts_as_a_judged_pair(tmp_path):
    book = VoteBook(tmp_path)

    def add(pair, *votes, tie=False):
        for place, vote in enumerate(votes):
            book.add(f"{pair} {place}".encode(), "a cat", vote, pair, tie, place)

    add("better", -1, 1)
    add("tie", 0, 0, tie=True)
    add("bad", -1, -1)
    add("nine", 0, 0, 1, 0, -1, 0)
    add("half", 1)
    add("withdrawn", 0, 0)
    book.add(b"alone", "a cat", 1)
    for known in (book, VoteBook(tmp_path)):
        assert {pair.id: pair.answer for pair in known.pairs()} == {
            "better": (-1, 1), "tie": (0, 0), "bad": (-1, -1), "nine": (1, -1)}  # fmt: skip
    assert [file.read_bytes() for file in book.pairs()[3].files] == [b"nine 2", b"nine 4"], "as they stood"
