"""A page of its own, for a second screen or a phone: watching, steering and rating without the graph.

GET /posttrain -> the page, made of the same scripts as the side bar. For what they need of ComfyUI's own page web/alone/
stands in.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from urllib.parse import quote

from .server import add_routes, answering

WEB = Path(__file__).resolve().parents[2] / "web"
PLACE = "{web}"  # in page.html, where the host serves our scripts


def served_as() -> str:
    """The name under /extensions/ by which the host serves our scripts."""
    known = getattr(sys.modules.get("nodes"), "EXTENSION_WEB_DIRS", {})
    found = (name for name, folder in known.items() if Path(folder).resolve() == WEB)
    return next(found, WEB.parent.name)


def page() -> str:
    """As HTML. Its addresses are relative: ComfyUI may be served below a path."""
    return (WEB / "alone" / "page.html").read_text(encoding="utf-8").replace(PLACE, f"./extensions/{quote(served_as())}")


def register_routes(routes) -> None:
    """Adds the route to a server's route table."""
    from aiohttp import web

    async def answer(_request):
        return web.Response(text=await asyncio.to_thread(page), content_type="text/html")

    routes.get("/posttrain")(answering(answer, "the page cannot be read"))


add_routes(register_routes)
