"""What was said in a file of votes, as verdicts: pairs, ties, both bad, thumbs, half an answer, a lost image."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from posttrain.rewards.person.taste import Verdict
from posttrain.trainers.data.again import Returns
from posttrain.trainers.data.verdicts import read_verdicts, taste_from, votes_file
from posttrain.trainers.data.vote_book import SeenPair


def written(root, votes: list[tuple]):
    """votes: (image, vote, pair, prompt, more)."""
    lines = []
    for name, value, pair, prompt, more in votes:
        if not (root / f"{name}.png").exists():
            Image.new("RGB", (8, 8), tuple(ord(c) for c in (name + "   ")[:3])).save(root / f"{name}.png")
        lines.append(json.dumps({"image": f"{name}.png", "vote": value, "pair_id": pair, "prompt": prompt, **more}))
    (root / "votes.jsonl").write_text("\n".join(lines) + "\n")
    return root / "votes.jsonl"


TIE = {"tie": True}
CASES = {
    "one of two": ([("a", 1, "p", "x", {}), ("b", -1, "p", "x", {})], [Verdict(0, 1, 1.0, "x")]),
    "two up, one down": (
        [("a", 1, "p", "x", {}), ("b", -1, "p", "x", {}), ("c", 1, "p", "x", {})],
        [Verdict(0, 1, 1.0, "x"), Verdict(2, 1, 1.0, "x")],
    ),
    "a tie": ([("a", 0, "p", "x", TIE), ("b", 0, "p", "x", TIE)], [Verdict(0, 1, 0.5, "x")]),
    "both bad": ([("a", -1, "p", "x", {}), ("b", -1, "p", "x", {})], [Verdict(0, None, 0.0, "x"), Verdict(1, None, 0.0, "x")]),
    "thumbs": ([("a", 1, "", "x", {}), ("b", -1, "", "x", {})], [Verdict(0, None, 1.0, "x"), Verdict(1, None, 0.0, "x")]),
    "half an answer": ([("a", 1, "p", "x", {})], []),
    "withdrawn": ([("a", 1, "p", "x", {}), ("b", -1, "p", "x", {}), ("a", 0, "p", "x", {}), ("b", 0, "p", "x", {})], []),
    "a tie that became a choice": (
        [("a", 0, "p", "x", TIE), ("b", 0, "p", "x", TIE), ("a", 1, "p", "x", {}), ("b", -1, "p", "x", {})],
        [Verdict(0, 1, 1.0, "x")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_said(tmp_path, case):
    votes, expected = CASES[case]
    pictures, found, skipped = read_verdicts(written(tmp_path, votes))
    assert found == expected and not skipped and len({p.name for p in pictures}) == len(pictures)


def test_a_lost_or_broken_image_costs_its_own_verdicts_and_is_named(tmp_path):
    names = [chr(97 + i) for i in range(12)]
    file = written(tmp_path, [(n, (-1) ** i, f"p{i // 2}", f"prompt {i // 2}", {}) for i, n in enumerate(names)])
    (tmp_path / "a.png").unlink()
    data = (tmp_path / "d.png").read_bytes()
    (tmp_path / "d.png").write_bytes(data[: len(data) - 25])
    Returns(tmp_path).note("x 0", SeenPair("p0", "prompt 0", (file, file), (1, -1)), False)
    seen = []
    taste = taste_from(file, lambda image: image.flatten(1)[:, :12], lambda done, all: seen.append((done, all)))
    assert taste.compared == 4 and len(taste.skipped) == 2 and seen[-1] == (11, 11)
    assert (
        "a.png does not exist" in taste.summary() and "d.png" in taste.summary() and "2 votes were left out" in taste.summary()
    )
    assert "\nPairs that came back turned round, answered alike: 0 of 1.\nFitted from 4 pairs" in taste.summary()
    assert taste.head.weight.shape == (12,) and torch.isfinite(taste.head.weight).all()


def test_no_votes_yet_says_where_they_come_from(tmp_path):
    with pytest.raises(ValueError, match="rate images with Rate by Hand"):
        votes_file(tmp_path)
