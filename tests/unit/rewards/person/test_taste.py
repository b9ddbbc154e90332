"""A taste that was planted is found, chance is called chance, and what was held out was not seen."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.person import taste
from posttrain.rewards.person.taste import Verdict, cross_validated, fit, score

DIM = 96


def images(count: int, seed: int = 0) -> torch.Tensor:
    """[count, DIM]: as of an image tower, whose embeddings have much in common and differ less and less in later directions."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, DIM + 1).double() ** -0.5
    return 3 + torch.randn(count, DIM, generator=generator, dtype=torch.float64) * spectrum


def planted(x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """[N]: how much somebody likes each, standardised."""
    unit = torch.nn.functional.normalize(x, dim=-1)
    liked = (unit - unit.mean(0)) @ torch.randn(DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return liked / liked.std()


def pairs(liked: torch.Tensor, noise: float = 0.0, each: int = 2, seed: int = 2) -> list[Verdict]:
    """The images two by two, ``each`` pairs of every prompt."""
    shaken = liked + noise * torch.randn(len(liked), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [Verdict(i, i + 1, float(shaken[i] > shaken[i + 1]), f"{i // 2 // each}") for i in range(0, len(liked), 2)]


def thumbs(liked: torch.Tensor, above: float = 0.0) -> list[Verdict]:
    return [Verdict(i, None, float(value > above), f"{i // 4}") for i, value in enumerate(liked.tolist())]


@pytest.mark.parametrize("kind", ["pairs", "thumbs"])
def test_a_planted_taste_is_recovered_and_the_accuracy_is_that_on_new_images(kind):
    x, new = images(400), images(2000, seed=9)
    verdicts = {"pairs": pairs, "thumbs": thumbs}[kind](planted(x))
    head = fit(x, verdicts)
    together = torch.cat([x, new])
    liked = planted(together)[400:]
    found = score(head, new)
    assert torch.corrcoef(torch.stack([found, liked]))[0, 1] > 0.8
    held = cross_validated(x, verdicts)
    fresh = {"pairs": (found[::2] > found[1::2]) == (liked[::2] > liked[1::2]), "thumbs": (found > 0) == (liked > 0)}[kind]
    assert held.low - 0.03 <= fresh.double().mean() <= held.high + 0.06, (
        "it was fitted from fewer votes, so it may be a little low"
    )
    assert held.low > 0.6 and held.text().startswith("Right on") and "chance is 5" in held.text()


def test_random_votes_are_chance_however_many_unknowns_there_are():
    """60 heads, fewer votes than unknowns: in the mean a half, and the interval holds chance in most."""
    shares, covered = [], 0
    for seed in range(60):
        x = images(80, seed)
        verdicts = pairs(torch.randn(80, generator=torch.Generator().manual_seed(500 + seed), dtype=torch.float64))
        held = cross_validated(x, verdicts)
        shares.append(held.share)
        covered += held.low <= 0.5 <= held.high
        told = "Not shown to be better than chance" in held.text()
        assert told == (held.low <= 0.5)
    assert abs(sum(shares) / 60 - 0.5) < 0.03 and covered >= 51
    assert (
        torch.sign(score(fit(x, verdicts), x[::2]) - score(fit(x, verdicts), x[1::2]))
        .eq(torch.tensor([2 * v.share - 1 for v in verdicts]))
        .all()
    ), "on the votes that it has seen it is always right, which tells nothing"


def test_a_picture_or_prompt_is_never_on_both_sides():
    """Copies of one random verdict: seen while fitting they would all be right."""
    generator = torch.Generator().manual_seed(0)
    x = images(40)
    said = torch.randint(0, 2, (20,), generator=generator).tolist()
    by_prompt = [Verdict(2 * i, 2 * i + 1, float(said[i]), f"{i}") for i in range(20) for _ in range(5)]
    by_image = [Verdict(2 * i, 2 * i + 1, float(said[i]), f"{i} {k}") for i in range(20) for k in range(5)]
    for verdicts in (by_prompt, by_image):
        held = cross_validated(x, verdicts)
        assert held.votes == 100 and held.prompts == 20 and 0.2 < held.share < 0.8
        assert held.high - held.low > 0.35, "a hundred votes that say the same as twenty are worth twenty"


def test_ties_pull_together_and_both_bad_says_nothing_of_which_is_better():
    x = images(6)
    decided = [Verdict(0, 1, 1.0), Verdict(2, 3, 1.0)]
    apart = score(fit(x, decided), x)
    tied = score(fit(x, [*decided, *[Verdict(0, 1, 0.5)] * 3]), x)
    assert 0 < tied[0] - tied[1] < apart[0] - apart[1]
    both_bad = score(fit(x, [Verdict(0, None, 0.0), Verdict(1, None, 0.0), Verdict(4, None, 1.0)]), x)
    assert both_bad[:2].max() < 0 < both_bad[4]
    mirrored = score(fit(x, [Verdict(1, 0, 0.0), Verdict(3, 2, 0.0)]), x)
    assert torch.allclose(mirrored, apart), "which one was shown first changes nothing"


def test_newtons_minimum_is_where_the_slope_is_zero_in_both_shapes():
    for rows in (30, 200):  # fewer and more verdicts than unknowns
        generator = torch.Generator().manual_seed(rows)
        a = 5 * torch.randn(rows, 60, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 3, (rows,), generator=generator).double() / 2
        z = taste._logistic(a, y).requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(a @ z, y, reduction="sum") + z.square().sum() / 2
        (slope,) = torch.autograd.grad(loss, z)
        assert slope.abs().max() < 1e-6


def test_what_tells_nothing_is_said():
    x = images(8)
    for nothing in ([], [Verdict(0, 1, 0.5)], [Verdict(0, None, 1.0), Verdict(1, None, 1.0)]):
        with pytest.raises(ValueError, match="hold no taste yet.*rate some more"):
            fit(x, nothing)
        assert cross_validated(x, nothing).votes == 0
    one_prompt = cross_validated(x, [Verdict(0, 1, 1.0), Verdict(2, 3, 1.0)])
    assert one_prompt.votes == 0 and one_prompt.text().startswith("Too few votes to say how often")
    few = cross_validated(x, [Verdict(2 * i, 2 * i + 1, 1.0, str(i)) for i in range(4)])
    assert few.votes == 4 and few.text().startswith("Too few votes to rely on: 20 of 5 prompts")
