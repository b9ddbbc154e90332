"""The server behind the page: whether there is one, and how the pack's routes answer."""
from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable


def page_server():
    """ComfyUI's server, or None where there is none (unit tests, headless use)."""
    # a server that runs is imported already; importing it here would start half of ComfyUI in a headless process
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def add_routes(register_routes: Callable) -> None:
    """For a module's import: register_routes(route table). Without a server there is nothing to register."""
    server = page_server()
    if server is not None:
        register_routes(server.routes)


def answering(act: Callable[..., Awaitable], trouble: str) -> Callable:
    """The handler of a route: what ``await act(request)`` gives, as JSON where it is no response yet.

    Errors are told as {"error": words}: ValueError with status 400, LookupError 404, OSError 500 with ``trouble`` before it.
    """
    from aiohttp import web

    async def handler(request):
        try:
            found = await act(request)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        except LookupError as error:
            return web.json_response({"error": str(error.args[0])}, status=404)
        except OSError as error:
            return web.json_response({"error": f"{trouble} ({error})"}, status=500)
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)
    return handler
