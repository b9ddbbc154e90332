"""Votes in a file that only grows: the last one counts, and they become thumbs or pairs."""
from __future__ import annotations

import hashlib
import json

import pytest
from PIL import Image
from posttrain.trainers.data.files import read_file
from posttrain.trainers.data.rows import Pair, Thumb


def folder(root, names: str = "abcdef"):
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (40 * i, 10, 10)).save(root / f"{name}.png")
    return root


def sha(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def vote(image: str, value: int, prompt: str = "a ball", **more) -> dict:
    return {"ts": 1.0, "image": f"{image}.png", "prompt": prompt, "vote": value, "source": "ui", **more}


def written(root, *records):
    path = root / "feedback.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n", encoding="utf-8")
    return path


def names(pairs) -> list[tuple[str, str]]:
    return [(pair.winner.name[0], pair.loser.name[0]) for pair in pairs]


def test_the_last_vote_on_an_image_counts(tmp_path):
    folder(tmp_path)
    path = written(tmp_path, vote("a", 1), vote("b", 1), vote("c", -1), vote("a", -1), vote("b", 0), vote("d", 0), vote("d", 1))
    data = read_file(path, 99)
    assert data.kind == "thumbs" and not data.skipped and isinstance(data.rows[0], Thumb)
    assert {row.image.name[0]: row.good for row in data.rows} == {"a": False, "c": False, "d": True}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(vote("c", 1)) + "\n")
    assert {row.image.name[0]: row.good for row in read_file(path, 99).rows} == {"a": False, "c": True, "d": True}


def test_an_image_is_known_by_its_content_whatever_its_file_is_called(tmp_path):
    folder(tmp_path)
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    content = sha(tmp_path / "a.png")
    path = written(tmp_path, vote("a", 1, image_sha256=content), vote("copy", -1, image_sha256=content.upper()))
    row, = read_file(path, 99).rows
    assert row.image.name == "copy.png" and not row.good
    path = written(tmp_path, vote("a", 1), {**vote("b", 1), "image": str(tmp_path / "a.png")}, vote("a", -1))
    row, = read_file(path, 99).rows
    assert not row.good, "a full path and a name in the folder are the same file"


def test_pairs_are_up_times_down_of_the_same_prompt(tmp_path):
    folder(tmp_path)
    path = written(tmp_path, vote("a", 1), vote("b", 1), vote("c", -1), vote("d", -1, "a cube"), vote("e", 1, "a cube"),
                   vote("f", 1, "alone"))
    data = read_file(path, 99, votes="pairs")
    assert names(data.rows) == [("a", "c"), ("b", "c"), ("e", "d")] and isinstance(data.rows[0], Pair)
    assert [row.prompt for row in data.rows] == ["a ball", "a ball", "a cube"]
    assert data.skipped == ("line 6: no image of its prompt was voted down",)
    assert len(read_file(path, 2, votes="pairs").rows) == 2, "the limit is one of pairs"


def test_images_shown_side_by_side_are_paired_with_each_other_only(tmp_path):
    folder(tmp_path)
    path = written(tmp_path, vote("a", 1, pair_id="1"), vote("b", -1, pair_id="1"), vote("c", 1, pair_id=2),
                   vote("d", -1, pair_id=2), vote("e", 1), vote("f", -1))
    assert names(read_file(path, 99, votes="pairs").rows) == [("a", "b"), ("c", "d"), ("e", "f")]
    assert len(read_file(path, 99).rows) == 6


def test_a_few_bad_lines_among_many_are_counted_and_listed(tmp_path):
    folder(tmp_path)
    good = [vote("a", 1, f"prompt {i}") for i in range(300)]
    bad = ["{not json", "[1]", vote("a", 2), {"prompt": "x", "image": "a.png"}, {"prompt": "x", "vote": 1}, vote("gone", 1),
           vote("b", 1, ""), vote("c", 1, image_sha256="0" * 64), vote("d", True)]
    (tmp_path / "e.png").write_bytes(b"no image")
    data = read_file(written(tmp_path, *good, *bad, vote("e", 1), vote("f", -1)), 10_000)
    assert [(row.image.name, row.good) for row in data.rows] == [("a.png", True), ("f.png", False)]
    assert [line.split(": ", 1) for line in data.skipped] == [
        ["line 301", "it is not JSON"], ["line 302", "it is not a JSON object"],
        ["line 303", "its vote 2 is neither 1 (up), -1 (down) nor 0 (withdrawn)"],
        ["line 304", "its vote None is neither 1 (up), -1 (down) nor 0 (withdrawn)"], ["line 305", "it has no \"image\""],
        ["line 307", "it has no caption"], ["line 309", "its vote True is neither 1 (up), -1 (down) nor 0 (withdrawn)"],
        ["line 306", "the image gone.png does not exist"],
        ["line 308", "the image c.png is another one than was voted on"],
        ["line 310", "e.png is not an image that can be read"]]
    assert "10 rows were left out" in data.summary()


def test_votes_that_make_no_pair_are_an_error_that_says_why(tmp_path):
    folder(tmp_path)
    with pytest.raises(ValueError, match="(?s)feedback.jsonl.*no image of its prompt was voted up"):
        read_file(written(tmp_path, vote("a", -1), vote("b", -1)), 99, votes="pairs")
    with pytest.raises(ValueError, match="votes: unknown 'rows'"):
        read_file(tmp_path / "feedback.jsonl", 99, votes="rows")


def test_a_prompt_for_all_serves_votes_without_one(tmp_path):
    folder(tmp_path)
    row, = read_file(written(tmp_path, {"image": "a.png", "vote": 1}), 9, "any ball").rows
    assert row.prompt == "any ball"


SEPARATORS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r", "\n", "\r\n"]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_what_other_programs_take_for_the_end_of_a_line_loses_no_vote(tmp_path, separator):
    from posttrain.trainers.data.vote_book import VoteBook
    folder(tmp_path)
    data = (tmp_path / "a.png").read_bytes()
    prompt = f"a ball{separator}and a cube"
    VoteBook(tmp_path / "votes").add(data, prompt, 1)
    VoteBook(tmp_path / "votes").add(data, "another", -1)
    assert [VoteBook(tmp_path / "votes").vote_on(data, each) for each in (prompt, "another")] == [1, -1]
    read = read_file(tmp_path / "votes" / "votes.jsonl", 9)
    assert not read.skipped and read.rows[0].prompt == "another"


def test_a_full_disk_takes_a_vote_whole_or_not_at_all(tmp_path):
    """Half a line would swallow the vote after it, which was acknowledged."""
    import resource
    import signal

    from posttrain.trainers.data.vote_book import VoteBook
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    book, kept = VoteBook(tmp_path), []
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        for number in range(12):
            try:
                book.add(b"image", f"prompt {number}", 1)
                kept.append(f"prompt {number}")
            except OSError:
                assert (tmp_path / "votes.jsonl").read_bytes().endswith(b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert 0 < len(kept) < 12
    book.add(b"image", "the last", -1)
    again = VoteBook(tmp_path)
    assert [again.vote_on(b"image", prompt) for prompt in [*kept, "the last"]] == [1] * len(kept) + [-1]
    assert len((tmp_path / "votes.jsonl").read_bytes().splitlines()) == len(kept) + 1
