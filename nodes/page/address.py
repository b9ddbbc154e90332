"""The question whether pictures may be sent to another machine: asked in the page, answered once by the user.

Event "posttrain.address" {address} when a workflow wants it. POST /posttrain/addresses {"address"}: the user's yes, which is
kept in the settings file. Only what a workflow has asked for in this process can be allowed, and no workflow can call a route.
"""

from __future__ import annotations

import asyncio

from ..access import AddressNotAllowed, allow_address, check_address
from .server import add_routes, answering, body_of, page_server

_asked: set[str] = set()


def check_and_ask(url: str, what: str = "pictures and prompts") -> None:
    """``check_address``; where the user has not allowed the address yet, every open page asks, too."""
    try:
        check_address(url, what)
    except AddressNotAllowed as error:
        _asked.add(error.origin)
        if page_server() is not None:
            page_server().send_sync("posttrain.address", {"address": error.origin})
        raise


def register_routes(routes) -> None:
    """Adds the route to a server's route table."""

    async def allow(request):
        address = (await body_of(request, address=str))["address"]
        if address not in _asked:
            raise LookupError("no workflow has asked for this address since ComfyUI was started")
        await asyncio.to_thread(allow_address, address)
        _asked.discard(address)
        return {"allowed": address}

    routes.post("/posttrain/addresses")(answering(allow, "the address cannot be kept"))


add_routes(register_routes)
