"""The address of a judge's server: what may be one, and whether it is this machine."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from ..base.words import shown, unwritable

KEY_VARIABLE, KEY_URL_VARIABLE = "POSTTRAIN_VLM_KEY", "POSTTRAIN_VLM_URL"
EXAMPLE = "http://127.0.0.1:8000/v1"
PORTS = {"http": 80, "https": 443}


def addresses(url: str) -> list[str]:
    """The addresses of a text with commas between them, each once; the text itself where it names one."""
    return list(dict.fromkeys(each.strip() for each in url.split(","))) if isinstance(url, str) else [url]


def origin_of(url: str, example: str = EXAMPLE) -> str:
    """scheme://host:port of an address. ValueError, with an example, where it is none, or holds more than the way to a server.

    Passwords would be kept with every run, and what follows a ? or # would make a request another one than it looks.
    """
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ValueError(f"url must begin with http: or https:, got '{shown(url)}'. Example: {example}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or unwritable(url) or not host.isascii() or any(sign in url for sign in " \\"):
        raise ValueError(f"url: '{shown(url)}' is not an address. Example: {example}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"url: the address of {shown(host)} holds a name or a password, which would be saved with every run and "
            f"every LoRA. Take it out; a key belongs into the environment variable {KEY_VARIABLE}"
        )
    if "?" in url or "#" in url:
        raise ValueError(f"url: '{shown(url)}' goes on after its path; type it as in the example. Example: {example}")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port or PORTS[parts.scheme]}"


def is_here(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
