"""A run's folder in the file manager, for who sits at the computer that ComfyUI runs on.

POST /posttrain/runs/{run}/open {"open": the run's name again} -> {"run"}
Windows opens it itself, a Linux desktop by xdg-open, a Mac by its own "open location". Anybody else can copy where it lies.
"""

from __future__ import annotations

import asyncio
import os
import webbrowser
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from .run_reader import run_folder
from .server import add_routes, answering, body_of

OPENERS = ("xdg-open", "macosx")  # never a browser of the console, which would hold up the server
ON_THE_WAY = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")  # said by proxies, which may be on this machine


def is_here(remote: str | None, headers) -> bool:
    """Whether a request comes from this machine, asked for by this machine's own name, and past no proxy."""
    try:
        address = ip_address((remote or "").split("%")[0])
        loopback = (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return False
    host = urlsplit(f"//{headers.get('Host', '')}").hostname
    return loopback and host in ("localhost", "127.0.0.1", "::1") and not any(name in headers for name in ON_THE_WAY)


def show(folder: Path) -> None:
    """ValueError where this machine has no file manager that can be asked."""
    if hasattr(os, "startfile"):
        os.startfile(folder)
        return
    for name in OPENERS:
        try:
            if webbrowser.get(name).open(folder.as_uri()):
                return
        except webbrowser.Error:
            continue
    raise ValueError("open: this machine has no desktop that could show a folder; copy where it lies instead")


def register_routes(routes) -> None:
    """Adds the route to a server's route table."""

    async def opened(request):
        run = request.match_info["run"]
        body = await body_of(request, open=str)
        if not is_here(request.remote, request.headers):
            raise ValueError(
                "open: a folder is opened for who sits at ComfyUI's own computer, and for nobody else; copy where it lies"
            )
        if body["open"] != run:
            raise ValueError("open: it has to be the run's name")
        folder = run_folder(run).resolve()
        await asyncio.to_thread(show, folder)
        return {"run": folder.name}

    routes.post("/posttrain/runs/{run}/open")(answering(opened, "the folder cannot be opened"))


add_routes(register_routes)
