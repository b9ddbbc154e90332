"""One ComfyUI server, asked through the routes that every ComfyUI has.

A LoRA goes to /upload/image with type "output" into the folder "loras": ComfyUI looks for LoRAs there, too. Latents come back
through /view, as SaveLatent wrote them: safetensors, never pickle. Every request has a deadline, and every answer a largest size.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import safetensors.torch

from ...rewards.base.words import brief, shown
from ...rewards.vlm.server import LARGEST, opener, read_before

EMPTY = safetensors.torch.save({})  # the file of a LoRA without weights
LORAS = "loras"  # in the output folder: main.py of every ComfyUI adds it to where LoRAs are found
NEEDED = ("LoraLoaderModelOnly", "KSampler", "CLIPTextEncode", "LoadLatent", "LatentBatch", "SaveLatent")
SLOWEST = 2**20  # bytes in a second that an upload may take
LISTING = 64 << 20  # bytes of a list of model files
WORDS = 600  # characters that are kept of what a server says


class Lost(OSError):
    """The server does not answer, or not in time, or not as a ComfyUI does. Another one may do its work."""


class Refused(Lost):
    """There is no such route, or not for this."""


class Unfit(ValueError):
    """The server answers, and lacks something that its owner has to add."""


class Send(Protocol):
    """How requests go to a ComfyUI that is not asked by HTTP. Both -> status and answer; OSError where nobody answers."""

    def __call__(self, route: str, body: bytes | None, kind: str, seconds: float) -> tuple[int, bytes]: ...

    def finished(self, route: str, stopped: Callable[[], bool], seconds: float) -> tuple[int, bytes]:
        """What it answers to a history's route, once that is not empty, or ``seconds`` have passed, or ``stopped``."""


class Form:
    """A file as it is uploaded, made once: the same bytes for all who get it. kind: of folder, input or output."""

    def __init__(self, name: str, content: bytes, kind: str, subfolder: str = "", overwrite: bool = False):
        self.size = len(content)
        fields = {"type": kind, "subfolder": subfolder, "overwrite": str(overwrite).lower()}
        edge = hashlib.sha256(content).hexdigest()
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in fields.items()
        ]
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        self.kind = f"multipart/form-data; boundary={edge}"
        self.body = b"".join([*parts, head, content, f"\r\n--{edge}--\r\n".encode()])


@dataclass(frozen=True)
class Client:
    """url: up to and without the first route. timeout: seconds for one request. send: how requests go there, else by HTTP."""

    url: str
    timeout: float = 30.0
    send: Send | None = None
    __repr__ = brief

    def ask(self, route: str, body: Any = None, largest: int = LARGEST) -> Any:
        """The JSON that the route answers, or None where it answers nothing; with a body by POST. Raises Lost, or Unfit."""
        data = None if body is None else json.dumps(body).encode()
        return _parsed(route, self._bytes(route, data, "application/json", largest))

    def file(self, place: dict[str, str], largest: int) -> bytes:
        """A file of its output folder, as its history names it."""
        return self._bytes(f"/view?{urlencode({**place, 'type': 'output'})}", None, "", largest)

    def upload(self, form: Form) -> str:
        """Puts a file into its input or output folder. -> the name that it has there."""
        answer = self._bytes("/upload/image", form.body, form.kind, LARGEST)
        try:
            return str(json.loads(answer)["name"])
        except (ValueError, KeyError, TypeError) as error:
            raise Lost("what it answers to an upload is not what ComfyUI answers") from error

    def history(self, name: str, stopped: Callable[[], bool], seconds: float) -> Any:
        """What it says of a graph that it was given. One that is not asked by HTTP says it as soon as there is something to
        say: it need not be asked again and again."""
        route = f"/history/{quote(name)}"
        if self.send is None:
            return self.ask(route)
        with _reached():
            status, answer = self.send.finished(route, stopped, seconds)
        return _parsed(route, self._taken(route, status, answer, LARGEST))

    def _bytes(self, route: str, data: bytes | None, kind: str, largest: int) -> bytes:
        if self.send is not None:
            with _reached():
                status, answer = self.send(route, data, kind, self.timeout)
            return self._taken(route, status, answer, largest)
        request = urllib.request.Request(self.url + route, data, {"Content-Type": kind} if data is not None else {})
        seconds = self.timeout + len(data or b"") / SLOWEST
        deadline = time.monotonic() + seconds
        try:
            with opener(self.url).open(request, timeout=seconds) as response:
                return read_before(response, deadline, largest)
        except urllib.error.HTTPError as error:
            raise self._refusal(route, error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Lost(f"it does not answer ({type(error).__name__}: {shown(str(reason), 200)})") from error

    def _taken(self, route: str, status: int, answer: bytes, largest: int) -> bytes:
        if status != 200:
            raise refusal(route, status, answer.decode("utf-8", "replace"))
        if len(answer) > largest:
            raise Lost(f"its answer to {route.partition('?')[0]} has more than {largest:,} bytes")
        return answer

    def _refusal(self, route: str, error: urllib.error.HTTPError) -> Exception:
        with error:
            try:
                text = read_before(error, time.monotonic() + self.timeout).decode("utf-8", "replace")
            except (OSError, http.client.HTTPException):
                text = ""
        return refusal(route, error.code, text)


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Lost(f"it does not answer ({type(error).__name__}: {shown(str(error), 200)})") from error


def _parsed(route: str, answer: bytes) -> Any:
    try:
        return json.loads(answer) if answer else None
    except (ValueError, RecursionError) as error:
        raise Lost(f"what it answers to {route} is no JSON, so it is no ComfyUI") from error


def refusal(route: str, status: int, text: str) -> Exception:
    """What a status other than 200 means."""
    if status == 413:
        return Unfit(
            "it takes no file as large as this LoRA; start it with --max-upload-size and more MB, or choose a "
            "smaller LoRA precision"
        )
    if status == 400 and route == "/prompt":
        return Unfit(f"it cannot run the graph: {graph_errors(text)}")
    kind = Refused if status == 404 else Lost
    return kind(f"it answers {status} to {route.partition('?')[0]}: {shown(text, 200)}")


def graph_errors(text: str) -> str:
    """What /prompt says of a graph, in a line."""
    try:
        answer = json.loads(text)
        found = [
            f"{node['class_type']}: {each['message']}, {each['details']}"
            for node in answer["node_errors"].values()
            for each in node["errors"]
        ]
        return shown("; ".join(found) or f"{answer['error']['message']} {answer['error']['details']}", WORDS)
    except (ValueError, KeyError, TypeError, AttributeError):
        return shown(text, WORDS)


def version_of(client: Client) -> str:
    """Of the ComfyUI there. Raises Lost where there is none."""
    found = client.ask("/system_stats")
    try:
        return shown(found["system"].get("comfyui_version") or "of an unknown version", 40)
    except (KeyError, TypeError, AttributeError) as error:
        raise Lost("there is a server, but no ComfyUI") from error


def check_nodes(client: Client, kinds: set[str]) -> None:
    """Unfit where the server lacks a node of the graph."""
    lacking = sorted(kind for kind in kinds | set(NEEDED) if not (client.ask(f"/object_info/{quote(kind, safe='')}") or {}))
    if lacking:
        raise Unfit(f"it has no node {', '.join(lacking)}; install there the pack that brings it, as on this machine")


def check_files(client: Client, files: dict[str, dict[str, int]]) -> None:
    """Unfit where a model file is not there, or is another one by its size. files: name -> model folder -> bytes."""
    for name, places in files.items():
        found = [size for folder in places for size in _sizes(client, folder, name)]
        if not found and not any(name in _listed(client, f"/models/{quote(folder, safe='')}") for folder in places):
            raise Unfit(
                f"it has no model file {shown(name, 200)}; put it there, under that name, into models/{next(iter(places))}"
            )
        if found and not set(found) & set(places.values()):
            raise Unfit(
                f"its model file {shown(name, 200)} has {found[0]:,} bytes, the one of this computer "
                f"{next(iter(places.values())):,}; it would draw with another model"
            )


def _sizes(client: Client, folder: str, name: str) -> list[int]:
    """Of the files of that name in a model folder there; none of forms that only a pack knows, such as .gguf."""
    try:
        return [
            entry["size"] for entry in _listed(client, f"/experiment/models/{quote(folder, safe='')}") if entry["name"] == name
        ]
    except (KeyError, TypeError) as error:
        raise Lost("what it says of its model files is not what ComfyUI says") from error


def _listed(client: Client, route: str) -> list:
    """A list of files; empty where there is no such folder."""
    try:
        found = client.ask(route, largest=LISTING)
    except Refused:
        return []
    return found if isinstance(found, list) else []


def check_upload(client: Client, size: int) -> None:
    """Unfit where the server takes no file of ``size`` bytes. One that does not say is asked by the upload itself."""
    said = client.ask("/features")
    limit = said.get("max_upload_size") if isinstance(said, dict) else None
    if isinstance(limit, (int, float)) and size > limit:
        raise Unfit(
            f"it takes files of {limit / 2**20:.0f} MB and the LoRA has {size / 2**20:.0f} MB; start it with "
            f"--max-upload-size {size // 2**20 + 10}, or choose a smaller LoRA precision"
        )


def lora_form(name: str, content: bytes) -> Form:
    return Form(name, content, "output", LORAS)


def send_lora(client: Client, form: Form) -> str:
    """Puts the LoRA where LoraLoader finds it. -> the name that it has there. Unfit where the server does not look there."""
    check_upload(client, form.size)
    stored = client.upload(form)
    listed = client.ask(f"/models/{LORAS}")
    if not isinstance(listed, list) or stored not in listed:
        raise Unfit(
            "it does not look for LoRAs in its output folder, as ComfyUI does; start it without what changes that, or "
            "write output/loras into its extra_model_paths.yaml"
        )
    return stored
