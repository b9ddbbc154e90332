"""A person as a reward: what is asked, and what votes come to; and the book that votes are written into."""
from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from posttrain.nodes.page.rating import RatingRequest
from posttrain.rewards.base.prompt import Source
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.person.by_hand import BEST_AND_WORST, THUMBS, HumanReward, sheets_of
from posttrain.trainers.data.files import read_file
from posttrain.trainers.data.vote_book import VoteBook, together

IMAGES = torch.rand(6, 8, 8, 3)
PROMPTS = [Prompt("a cat")] * 3 + [Prompt("a dog")] * 3
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


def asked(mode, votes):
    seen = []

    def ask(images, sheets):
        seen.append((images, sheets))
        return votes
    return HumanReward(ask, mode), seen


def values(mode, votes) -> list:
    reward, _ = asked(mode, votes)
    return [None if math.isnan(v) else v for v in score(reward, IMAGES, PROMPTS, GROUPS).values.tolist()]


def test_best_and_worst_put_the_others_in_between():
    assert values(BEST_AND_WORST, {1: 1, 2: -1}) == [0, 1, -1, None, None, None]


def test_the_picture_that_images_were_made_from_is_shown_with_them():
    source = Source("before", "before", lambda: torch.zeros(8, 8, 3))
    prompts = [Prompt("lighter", source=source)] * 3 + [Prompt("a dog")] * 3
    first, second = sheets_of(prompts, GROUPS)
    assert first.source is source and second.source is None
    asked = RatingRequest("mine", THUMBS, [first, second], dict.fromkeys(range(7), b""), VoteBook(Path("nowhere")), {first: 6})
    assert [sheet["before"] for sheet in asked.plain()["sheets"]] == [6, None] and asked.result() == {}
    with pytest.raises(LookupError, match="there is no image 6"):
        asked.vote({6: 1})


def test_a_best_one_alone_says_that_it_is_better_than_nothing_known():
    assert values(BEST_AND_WORST, {1: 1}) == [None, 1, None, None, None, None]


def test_thumbs_leave_out_what_was_not_judged():
    assert values(THUMBS, {0: 1, 2: -1, 4: 1, 5: 0}) == [1, None, -1, None, 1, None]


def test_a_sheet_holds_the_images_of_one_prompt_in_random_order():
    orders = set()
    for _ in range(50):
        cats, dogs = sheets_of(PROMPTS, GROUPS)
        assert (cats.prompt, dogs.prompt) == ("a cat", "a dog")
        assert sorted(cats.rows) == [0, 1, 2] and sorted(dogs.rows) == [3, 4, 5]
        orders.add(cats.rows)
    assert len(orders) > 3


def test_images_are_shown_as_they_will_be_scored():
    """A picture with a broken pixel is black, and stays without a score whatever is said of it."""
    broken = IMAGES.clone()
    broken[1, 2, 3] = torch.nan
    reward, seen = asked(THUMBS, {0: 1, 1: 1})
    scores = score(reward, broken, PROMPTS, GROUPS).values
    assert torch.equal(seen[0][0][1], torch.zeros(8, 8, 3)) and math.isnan(scores[1]) and scores[0] == 1


def test_prompts_with_one_image_are_not_asked_for_a_best_one():
    reward, seen = asked(BEST_AND_WORST, {0: 1, 1: -1})
    score(reward, IMAGES[:3], [Prompt("a cat")] * 2 + [Prompt("a dog")], torch.tensor([0, 0, 1]))
    assert [sheet.prompt for sheet in seen[0][1]] == ["a cat"]
    with pytest.raises(ValueError, match="raise images per prompt to 2 or more, or rate with thumbs"):
        score(reward, IMAGES[:1], PROMPTS[:1], GROUPS[:1])


def test_unknown_mode():
    with pytest.raises(ValueError, match="use one of thumbs, best and worst"):
        HumanReward(lambda images, sheets: {}, "stars")


@pytest.fixture
def png():
    from posttrain.rewards.base.pixels import png_bytes
    return [png_bytes(image) for image in IMAGES]


def test_png_is_the_image(png):
    import io

    import numpy as np
    from PIL import Image
    pixels = np.asarray(Image.open(io.BytesIO(png[0])))
    assert np.abs(pixels - 255 * IMAGES[0].numpy()).max() <= 0.5 + 1e-4


def test_votes_are_read_back_as_thumbs_and_pairs(tmp_path, png):
    book = VoteBook(tmp_path / "cats")
    for image, vote, pair in zip(png, (1, -1, 0, 1, -1, 1), ("a", "a", "a", "b", "b", "")):
        book.add(image, "ein Kätzchen", vote, pair)
    assert [VoteBook(tmp_path / "cats").vote_on(image, "ein Kätzchen") for image in png] == [1, -1, 0, 1, -1, 1]
    assert book.vote_on(png[0], "a dog") == 0
    thumbs = read_file(book.file, 10)
    assert [row.good for row in thumbs.rows] == [True, False, True, False, True] and not thumbs.skipped
    pairs = read_file(book.file, 10, votes="pairs")
    assert [(pair.winner.read(), pair.loser.read()) for pair in pairs.rows] == [(png[0], png[1]), (png[3], png[4])]


def test_the_last_vote_counts_and_nothing_is_erased(tmp_path, png):
    book = VoteBook(tmp_path)
    for vote in (1, 0, -1):
        book.add(png[0], "a cat", vote)
    assert VoteBook(tmp_path).vote_on(png[0], "a cat") == -1
    assert len(book.file.read_text().splitlines()) == 3 and len(list((tmp_path / "images").iterdir())) == 1


def test_a_damaged_or_strange_line_costs_only_itself(tmp_path, png):
    book = VoteBook(tmp_path)
    book.add(png[0], "a cat", 1)
    with book.file.open("a") as file:
        file.write('{"image": "b.png"\n[]\n{"image": "own.png", "prompt": "a cat", "vote": 1}\n{"image": "c.p')
    VoteBook(tmp_path).add(png[1], "a cat", -1)
    again = VoteBook(tmp_path)
    assert (again.vote_on(png[0], "a cat"), again.vote_on(png[1], "a cat")) == (1, -1)


def test_images_seen_together_have_one_name(png):
    assert together(png[:3]) == together([png[2], png[0], png[1]]) != together(png[1:4])


def test_every_line_says_when_and_on_which_image(tmp_path, png):
    VoteBook(tmp_path).add(png[0], "a cat", 1, "sheet")
    record = json.loads((tmp_path / "votes.jsonl").read_text())
    assert set(record) == {"image", "prompt", "vote", "image_sha256", "time", "pair_id"}
    assert (tmp_path / record["image"]).read_bytes() == png[0]
