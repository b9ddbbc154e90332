"""Work on the opened policy that ends the same however little memory there is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from comfy.model_management import OOM_EXCEPTION

from ...rewards.base import ranks
from .loading import can_stream
from .network import Network, open_policy
from .room import Room, room_of
from .value import Policy

Found = TypeVar("Found")


def in_room(policy: Policy, work: Callable[[Network], Found], *, also_load=(), guests=()) -> tuple[Found, Room]:
    """``work`` on the opened policy, and what was given up for want of memory.

    Where memory runs out in spite of all that the network can do itself, work begins anew with more of the model's weights in
    RAM. So it must end the same however often it is begun. Arguments and errors as of ``open_policy``.
    """
    room = room_of(policy.memory)
    while True:
        net = None
        try:
            with open_policy(policy, also_load=also_load, guests=guests, room=room) as net:
                found = work(net)
                for other in ranks.met("what was given up", net.room):
                    room = room.and_also(other)
                return found, room
        except OOM_EXCEPTION:
            more = (room if net is None else net.room).more_in_ram()
            # several ranks cannot begin anew: the others are further on
            if more is None or ranks.count() > 1 or not can_stream(policy.model):
                raise
        room = more  # not before here: the exception holds on to the memory of what failed
        logging.warning(
            "PostTrain: memory ran out; the step begins anew with %s of the model in RAM.", "half" if room.in_ram < 1 else "all"
        )
