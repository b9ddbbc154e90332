"""The verifier of edits accepts what was painted as told, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from posttrain.rewards.base.reward import Prompt, score
from posttrain.toy import edits
from posttrain.toy.edit_verifier import EditVerifier
from posttrain.toy.prompts import prompt_set as drawings

PAIR = ("red", "blue")
COUNT = 400


def cases(change) -> tuple[torch.Tensor, torch.Tensor, list[Prompt]]:
    """Pictures before, what ``change`` makes of their balls, and the prompts."""
    rng = np.random.default_rng(5)
    before = [edits.balls_with_one(PAIR[0], rng) for _ in range(COUNT)]
    after = [change(balls, rng) for balls in before]
    pictures, changed = (torch.from_numpy(edits.render(scenes, 9)) for scenes in (before, after))
    return pictures, changed, [edits.prompt(PAIR, picture, str(i)) for i, picture in enumerate(pictures)]


def test_true_edits_pass_and_wrong_ones_do_not():
    _, right, prompts = cases(lambda balls, rng: edits.painted(balls, *PAIR))
    strict, dense = EditVerifier().both(right, prompts).unbind(1)
    assert strict.mean() >= 0.98 and (dense[strict == 1] == 1).all()
    _, wrong, prompts = cases(lambda balls, rng: edits.wrongly_painted(balls, *PAIR, rng))
    strict, dense = EditVerifier().both(wrong, prompts).unbind(1)
    assert strict.sum() == 0 and 0.2 < dense.mean() < 0.8 and dense.max() < 1


@pytest.mark.parametrize(
    "spoil, dense",
    [
        (lambda after, before: before, 0.5),  # nothing was done: all others are there
        (lambda after, before: after.flip(1), None),  # the right colours at other places
        (lambda after, before: torch.full_like(after, 0.5), 0.0),
        (lambda after, before: torch.rand_like(after), None),
    ],
)
def test_what_is_no_edit_fails(spoil, dense):
    before, right, prompts = cases(lambda balls, rng: edits.painted(balls, *PAIR))
    found = EditVerifier().both(spoil(right, before), prompts)
    passed = found[:, 0] == 1
    assert passed.float().mean() <= 0.1  # a picture may be its own mirror image
    if dense is not None:
        assert abs(found[:, 1].mean() - dense) < 0.02


def test_another_ball_more_costs():
    more = edits.render([["blue", "blue", "green"]], 3)
    two = torch.from_numpy(edits.render([["red", "blue"]], 3))
    prompt = edits.prompt(PAIR, two[0], "two")
    strict, dense = EditVerifier().both(torch.from_numpy(more), [prompt])[0]
    assert strict == 0 and 0.5 < dense < 1


def test_its_kinds_and_what_it_refuses():
    _, right, prompts = cases(lambda balls, rng: edits.painted(balls, *PAIR))
    values = {kind: score(EditVerifier(kind), right[:8], prompts[:8], range(8)).values for kind in ("strict", "dense", "mixed")}
    torch.testing.assert_close(values["mixed"], (values["strict"] + values["dense"]) / 2)
    with pytest.raises(ValueError, match="kind is 'all'"):
        EditVerifier("all")
    for wrong in (drawings(held_out=False).prompts[0], Prompt("paint", {"kind": "paint", "from": "red", "to": "blue"})):
        with pytest.raises(ValueError, match="is no edit of the demo world"):
            EditVerifier().check_prompts([wrong])


def test_the_split_holds_pictures_out_and_every_prompt_has_its_ball():
    told, seen = ({held: {part(prompt) for prompt in edits.prompt_set(held).prompts} for held in (True, False)}
                  for part in (lambda prompt: prompt.text, lambda prompt: prompt.source.read().numpy().tobytes()))  # fmt: skip
    assert told[True] == told[False] and len(told[True]) == 9
    assert len(seen[True]) == 36 and len(seen[False]) == 72 and not seen[True] & seen[False]
    for held, count in ((True, 36), (False, 72)):
        prompts = edits.prompt_set(held).prompts
        assert len(prompts) == count == len({prompt.key for prompt in prompts}) and edits.prompt_set(held).prompts == prompts
        for prompt in prompts:
            EditVerifier().both(prompt.source.read()[None], [prompt])
