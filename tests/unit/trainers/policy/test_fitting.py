"""However little memory there is, a step ends as it would with more of it: every trainer, every remedy."""

from __future__ import annotations

import json

import comfy.model_management as management
import pytest
import torch
from posttrain.tests.unit.trainers.every_method import rolled, stepped
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.kto import KTO
from posttrain.trainers.methods import METHODS, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import fitting
from posttrain.trainers.policy.fitting import in_room
from posttrain.trainers.policy.network import Network
from posttrain.trainers.policy.room import ROOM, Room, room_of
from posttrain.trainers.policy.value import Policy
from small_models import trained_policy


def assert_same(found, expected):
    assert found.metrics["updates"] == expected.metrics["updates"] > 0
    first, second = (
        torch.cat([v.flatten() for k, v in sorted(p.optimizer.items()) if k.endswith("exp_avg")]) for p in (found, expected)
    )
    assert float((first - second).norm() / second.norm()) < 1e-4


class Full:
    """The network fails where more than ``most`` samples come at once, and until activations are recomputed, of this share of
    its blocks at least. sizes: of what went through; failed: how often it did not."""

    def __init__(self, monkeypatch, most: int, recomputed: float = 0.0):
        self.sizes, self.failed, guided = set(), 0, Network._guided

        def limited(net, x, *args, **kwargs):
            if len(x) > most or torch.is_grad_enabled() and net.room.recompute < recomputed:
                self.failed += 1
                raise management.OOM_EXCEPTION("for this test")
            self.sizes.add(len(x))
            return guided(net, x, *args, **kwargs)

        monkeypatch.setattr(Network, "_guided", limited)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_one_image_at_once_is_the_same_step(kind, monkeypatch):
    expected = stepped(kind)
    assert ROOM not in expected.memory
    full = Full(monkeypatch, most=1, recomputed=1.0)
    found = stepped(kind)
    assert full.sizes == {1}
    assert room_of(found.memory) == Room(recompute=1.0, at_once=1)
    assert_same(found, expected)


def test_what_was_given_up_is_given_up_in_every_later_step_and_after_a_resume(monkeypatch):
    """No try fails again, the rollout goes through in the same parts, and so the first ratio is exactly 1."""
    policy, full = trained_policy("sd3"), Full(monkeypatch, most=2, recomputed=1.0)
    first = stepped(FlowGRPO, policy)
    assert room_of(first.memory) == Room(recompute=1.0, at_once=2) and full.failed
    saved = json.loads(json.dumps(first.state()[1]))
    again = policy.with_state(first.state()[0], saved)
    assert "2 images go through the model at once" in again.memory[ROOM]["words"]
    full.failed = 0
    second = stepped(FlowGRPO, again)
    assert not full.failed and full.sizes == {2} and second.metrics["ratio_largest_change"] == 0


def test_remedies_come_in_their_order(monkeypatch):
    """Half of the activations recomputed first, then all, then half of the samples and half of that; and a part of the model in RAM only where the host can stream it."""
    seen = []
    with monkeypatch.context() as patch:
        full = Full(patch, 4, recomputed=0.5)
        assert room_of(stepped(NFT).memory) == Room(recompute=0.5) and full.failed
    for most, room in ((4, Room(recompute=1.0)), (2, Room(recompute=1.0, at_once=2)), (1, Room(recompute=1.0, at_once=1))):
        with monkeypatch.context() as patch:
            Full(patch, most, recomputed=1.0)
            seen.append((room_of(stepped(NFT).memory), room))
    assert all(found == room for found, room in seen), seen
    with monkeypatch.context() as patch:
        Full(patch, 0)
        with pytest.raises(management.OOM_EXCEPTION, match="Lower the batch size or the image size, switch on low memory"):
            stepped(NFT)


def test_more_of_the_model_goes_to_ram_where_nothing_else_helps(monkeypatch):
    """What it begins with is what the try before it ended with, and the work begins anew."""
    begun = []

    def work(net):
        begun.append(net.room)
        if net.room.in_ram < 1:
            raise management.OOM_EXCEPTION("for this test")
        return "done"

    monkeypatch.setattr(fitting, "can_stream", lambda patcher: True)
    assert in_room(trained_policy("sd3"), work) == ("done", Room(in_ram=1.0))
    assert [room.in_ram for room in begun] == [0, 0.5, 1]


def test_a_reference_point_that_memory_did_not_suffice_for_is_made_anew(monkeypatch):
    """KTO's is made of several passes, of which any may fail."""
    given, guided, failed = rolled(KTO, trained_policy("sd3")), Network._guided, []
    expected = train_step(*given)

    def fails_once(net, *args, **kwargs):
        if not failed and not torch.is_grad_enabled():
            failed.append(True)
            raise management.OOM_EXCEPTION("for this test")
        return guided(net, *args, **kwargs)

    monkeypatch.setattr(Network, "_guided", fails_once)
    assert_same(train_step(*given), expected)
    assert failed


def test_a_cards_preset_is_given_up_from_the_start_and_said_as_such():
    from posttrain.nodes.loop.train import on_card

    policy = trained_policy("sd3")
    assert on_card(policy, "as set") is policy and on_card(policy, "8 GB").memory == policy.memory
    monster = Policy(**{**vars(policy), "model": Weighing(policy.model, 11 * 2**30)})
    room = on_card(monster, "12 GB").memory[ROOM]
    assert room_of({ROOM: room}) == Room(recompute=1.0, at_once=1, in_ram=0.5)
    assert room["words"].startswith("The card has 12 GB, so from now on") and "tries" not in room["words"]
    assert on_card(on_card(monster, "12 GB"), "12 GB").memory[ROOM] == room


class Weighing:
    """A MODEL of another size."""

    def __init__(self, model, size: int):
        self._model, self._size = model, size

    def model_size(self) -> int:
        return self._size

    def __getattr__(self, name: str):
        return getattr(self._model, name)
