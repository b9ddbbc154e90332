"""The server behind the page: whether there is one, and how the pack's routes answer."""
from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable

from ...rewards.base.words import shown
from ..privacy import without_places

LONGEST = 1000  # characters of an error
_shown_elsewhere = False


def page_server():
    """ComfyUI's server, or None where there is none (unit tests, headless use)."""
    # a server that runs is imported already; importing it here would start half of ComfyUI in a headless process
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def is_seen() -> bool:
    """Whether there is a page: headless.py's server listens nowhere, and may tell another ComfyUI's."""
    return _shown_elsewhere or getattr(page_server(), "port", None) is not None


def show_elsewhere() -> None:
    """From here on another ComfyUI's page shows what happens here."""
    global _shown_elsewhere
    _shown_elsewhere = True


def add_routes(register_routes: Callable) -> None:
    """For a module's import: register_routes(route table). Without a server there is nothing to register."""
    server = page_server()
    if server is not None:
        register_routes(server.routes)


def answering(act: Callable[..., Awaitable], trouble: str) -> Callable:
    """The handler of a route: what ``await act(request)`` gives, as JSON where it is no response yet.

    Errors are told as {"error": words}: ValueError with status 400, LookupError 404, OSError 500 with ``trouble`` before it.
    Another site's page in the user's browser gets 403: it could otherwise vote, and allow addresses, in the user's name.
    """
    from aiohttp import web

    def told(words: object, status: int):
        return web.json_response({"error": shown(without_places(str(words)), LONGEST)}, status=status)

    async def handler(request):
        if request.headers.get("Sec-Fetch-Site") == "cross-site" and not cross_site_is_wanted():
            return told("this is another site's page", 403)
        try:
            found = await act(request)
        except ValueError as error:
            return told(error, 400)
        except LookupError as error:
            return told(error.args[0] if error.args else "it is not there", 404)
        except OSError as error:  # its own words hold the full path
            return told(f"{trouble} ({error.strerror or type(error).__name__})", 500)
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)
    return handler


async def body_of(request, **kinds: type) -> dict:
    """The JSON object of a request, which must hold these keys with values of these kinds. ValueError says what is wrong."""
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise ValueError("the body is no JSON") from None
    for name, kind in kinds.items():
        if not isinstance(body, dict) or not isinstance(body.get(name), kind):
            raise ValueError(f"{name}: it is missing")
    return body if isinstance(body, dict) else {}


def cross_site_is_wanted() -> bool:
    """Whether ComfyUI was started with --enable-cors-header."""
    from comfy.cli_args import args
    return getattr(args, "enable_cors_header", None) is not None
