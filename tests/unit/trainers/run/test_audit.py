"""An audit finds the damages of gamed pictures, and nothing where only noise or light differ a little."""

from __future__ import annotations

import pytest
import torch
from posttrain.tests.unit.trainers.run.damaged_pictures import COUNT, DAMAGES, HARMLESS, cut_outs
from posttrain.trainers.run.audit import Audit, audit, fidelity, obeyed, side_by_side
from posttrain.trainers.run.gallery import LOOKS

INDEX = torch.arange(COUNT) // 4


def signs(before, after, index=INDEX) -> list[str]:
    return Audit(tuple(audit(before, after, index)), len(before)).signs


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_a_sign(name):
    base = cut_outs(0)
    assert LOOKS[name].word in signs(base, DAMAGES[name](base, 1.0))


@pytest.mark.parametrize("name", [*HARMLESS, "nothing"])
def test_what_is_harmless_is_none(name):
    base = cut_outs(1)
    changed = HARMLESS[name](base, 1) if name in HARMLESS else base
    numbers = audit(base, changed, INDEX)
    found = Audit(tuple(numbers), COUNT)
    assert found.signs == [] and found.verdict().startswith("No sign")
    assert len(found.report().splitlines()) == 1 + len(numbers), "the numbers are shown all the same"


def test_lost_diversity_is_told_within_prompts_and_between_them():
    base = cut_outs(2)
    same_in_a_prompt = base[INDEX * 4]
    assert "much more alike within a prompt" in signs(base, 0.9 * same_in_a_prompt + 0.1 * base)
    mean = torch.stack([base[number == INDEX].mean(0) for number in INDEX.unique()])[INDEX]
    one_for_all = base - mean + base.mean(0)
    found = signs(base, one_for_all.clamp(0, 1))
    assert "much more alike from prompt to prompt" in found and "much more alike within a prompt" not in found
    assert "much more alike from prompt to prompt" not in signs(one_for_all, base), "more of it is no sign"


def test_light_and_colour_are_named_as_the_alarms_name_them():
    base = cut_outs(3)
    assert "much darker" in signs(base, base * 0.5)
    assert "much greyer" in signs(base, base.mean(-1, keepdim=True).expand_as(base))


def test_a_word_that_is_overdone_is_told_and_one_that_is_obeyed_alike_is_not():
    base, other = cut_outs(4), cut_outs(5)
    modest, loud = (DAMAGES["saturation"](base, by) for by in (0.1, 1.0))
    numbers = obeyed("vibrant", (base, other), (modest, DAMAGES["saturation"](other, 1.0)))
    assert [number.sign for number in numbers if number.sign] == ["overdone where the prompt says vibrant (colourfulness)"]
    assert not any(number.sign for number in obeyed("vibrant", (base, base), (loud, loud)))
    assert not any(number.sign for number in obeyed("vibrant", (base, base), (loud, modest))), "obeyed less is none"
    grown = numbers[0]
    assert grown.after > grown.before > 0 and "vibrant: colourfulness" in grown.words()


def test_pictures_that_follow_their_prompts_less_are_told():
    scores = torch.linspace(0.2, 0.3, 20)
    scores[3] = float("nan")
    noise = 0.01 * torch.randn(20, generator=torch.Generator().manual_seed(0))
    assert fidelity("CLIPScore", scores, scores - 0.05 + noise).sign == "less true to their prompts"
    assert not fidelity("CLIPScore", scores, scores + noise).sign and not fidelity("CLIPScore", scores, scores + 0.05).sign
    assert fidelity("CLIPScore", scores, scores).before == pytest.approx(float(scores[scores.isfinite()].mean()))


def test_a_verdict_counts_the_signs():
    base = cut_outs(6)
    found = Audit(tuple(audit(base, DAMAGES["burnt"](base, 1.0), INDEX)), COUNT)
    assert found.verdict().startswith(f"{len(found.signs)} sign") and f", in {COUNT} pictures of each" in found.verdict()
    assert all(sign in found.verdict() for sign in found.signs)


def test_a_sheet_has_a_row_for_a_prompt():
    first, second = (
        torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 2, 3),
        torch.arange(10.0, 16).view(6, 1, 1, 1).expand(6, 2, 2, 3),
    )
    index = torch.tensor([1, 1, 0, 0, 2, 2])
    found = side_by_side([first, second], index, 2)
    assert found[:, 0, 0, 0].tolist() == [2, 12, 0, 10]


@pytest.mark.parametrize("after", [torch.zeros(3, 8, 8, 3), torch.zeros(4, 8, 9, 3), torch.zeros(4, 8, 8, 3)[:0]])
def test_pictures_that_are_no_pairs_are_refused(after):
    with pytest.raises(ValueError, match="images: the models' have to be as many"):
        audit(torch.zeros(4, 8, 8, 3), after, torch.zeros(4))
