"""Which machines processes go to by the memory of their cards, from what Ray and the cards have told."""

from __future__ import annotations

import pytest
from posttrain.ray_run.cards import KIND, NODE, Cards, choice, room, size_of_first
from posttrain.ray_run.memory import GB


def machine(node: str, gigabytes: float | None, count: int = 1, kind: str | None = None, room: int | None = None) -> Cards:
    size = None if gigabytes is None else int(gigabytes * GB)
    return Cards(node, f"address of {node}", count, count if room is None else room, size, kind)


SMALL, LARGE, DARK = machine("small", 12), machine("large", 80, 2), machine("dark", None)


@pytest.mark.parametrize(
    "machines, count, where",
    [
        ([LARGE], 2, None),  # there is no other
        ([SMALL, LARGE], 2, {NODE: "in(large)"}),
        ([SMALL, LARGE, machine("larger", 141)], 3, {NODE: "in(large,larger)"}),
        ([DARK, LARGE], 1, {NODE: "in(large)"}),
        ([SMALL, machine("a", 80, kind="H100")], 1, {KIND: "in(H100)"}),
        (
            [machine("b", 12, kind="T4"), machine("a", 80, kind="H100"), machine("c", 80, kind="A100")],
            2,
            {KIND: "in(A100,H100)"},
        ),
        ([machine("b", 16, kind="V100"), machine("a", 32, kind="V100")], 1, {NODE: "in(a)"}),  # one name, two sizes
        ([machine("b", None, kind="H100"), machine("a", 80, kind="H100")], 1, {NODE: "in(a)"}),
    ],
)
def test_processes_go_where_cards_are_large_enough(machines, count, where):
    found, words = choice(machines, count, 24 * GB, 23 * GB)
    assert found == where and words.startswith("Cards with 24.0 GB or more: ")
    assert choice(machines, count, 24 * GB, None)[0] == where


@pytest.mark.parametrize("machines, count", [([SMALL, LARGE], 3), ([DARK], 1), ([machine("full", 80, 8, room=1)], 2)])
def test_where_too_few_are_it_is_said_and_refused_where_the_user_has_asked_for_them(machines, count):
    where, words = choice(machines, count, 24 * GB, 23 * GB)
    assert where is None and "for the largest model file (23.0 GB) whole" in words and f"where {count} are needed" in words
    assert all(each.address in words for each in machines) and "streamed from RAM" in words
    with pytest.raises(ValueError, match=f"--card: {count} processes ask for a card of 24.0 GB each") as refused:
        choice(machines, count, 24 * GB, None)
    assert all(each.address in str(refused.value) for each in machines)


def test_a_card_that_could_not_be_looked_at_is_said_to_be_unknown():
    assert "1 with unknown memory (address of dark), 2 with 80.0 GB (address of large)" in choice([DARK, LARGE], 4, GB, GB)[1]


@pytest.mark.parametrize(
    "there, count",
    [({"CPU": 8, "GPU": 4, "memory": 100}, 3), ({"CPU": 2, "GPU": 4, "memory": 100}, 2), ({"CPU": 8, "GPU": 4}, 0)],
)
def test_a_machine_has_room_for_as_many_as_what_is_shortest(there, count):
    assert room(there, {"CPU": 1.0, "GPU": 1.0, "memory": 30.0}) == count


def test_without_a_card_there_is_no_size():
    import torch

    assert (size_of_first() is None) == (not torch.cuda.is_available())
