"""Firefox over WebDriver BiDi and WebKitGTK, Safari's engine, over its WebDriver: as much of them as the tests of the page need."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import requests
import websocket
from posttrain.tools.host import free_port

START_SECONDS = 60
MINI_BROWSER = "webkit2gtk-4.1/MiniBrowser"  # below the libraries' folder of the machine

POINTER = [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]  # a click where the mouse is


class Firefox:
    """Started without a window; ``ask`` gives what an expression of the page's becomes, promises awaited."""

    program = shutil.which("firefox") or shutil.which("firefox-esr")
    missing = "no Firefox on this machine (Debian: apt install firefox-esr)"

    def __init__(self, folder: Path) -> None:
        port = free_port()
        (folder / "profile").mkdir(parents=True)
        command = [self.program, "--headless", "--no-remote", "--profile", str(folder / "profile"),
                   "--remote-debugging-port", str(port)]  # fmt: skip
        environment = os.environ | {"HOME": str(folder), "MOZ_DISABLE_CONTENT_SANDBOX": "1"}
        with (folder / "firefox.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.number = 0
        self.wire = patiently(
            lambda: websocket.create_connection(f"ws://127.0.0.1:{port}/session", timeout=120, suppress_origin=True)
        )
        self.call("session.new", capabilities={})
        self.page = self.call("browsingContext.getTree")["contexts"][0]["context"]
        self.call("browsingContext.setViewport", context=self.page, viewport={"width": 1400, "height": 850})

    def call(self, method: str, **given: Any) -> dict:
        self.number += 1
        self.wire.send(json.dumps({"id": self.number, "method": method, "params": given}))
        while (answer := json.loads(self.wire.recv())).get("id") != self.number:
            pass
        assert answer["type"] == "success", answer
        return answer["result"]

    def open(self, url: str) -> None:
        self.call("browsingContext.navigate", context=self.page, url=url, wait="complete")

    def ask(self, expression: str) -> Any:
        told = self.call("script.evaluate", expression=f"(async () => JSON.stringify([await ({expression})]))()", awaitPromise=True,
                         target={"context": self.page})  # fmt: skip
        assert told["type"] == "success", told["exceptionDetails"]["text"]
        return json.loads(told["result"]["value"])[0]

    def press(self, key: str) -> None:
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.call("input.performActions", context=self.page, actions=[{"type": "key", "id": "keys", "actions": keys}])

    def click(self, x: float, y: float) -> None:
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y)}, *POINTER]
        pointer = {"type": "pointer", "id": "mouse", "actions": moves}
        self.call("input.performActions", context=self.page, actions=[pointer])

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("browsingContext.captureScreenshot", context=self.page)["data"])

    def close(self) -> None:
        self.wire.close()
        end(self.process)


class WebKit:
    """The same of WebKitGTK, on a display of its own."""

    program = shutil.which("WebKitWebDriver")
    missing = "no WebKitGTK with its driver on this machine (Debian: apt install webkit2gtk-driver xvfb)"
    browser = next((str(path) for path in Path("/usr/lib").glob(f"*/{MINI_BROWSER}")), None)

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        with (folder / "display").open("w+b") as told, (folder / "webkit.log").open("wb") as log:
            self.display = subprocess.Popen(["Xvfb", "-displayfd", str(told.fileno()), "-screen", "0", "1400x900x24"], stdout=log,
                                            stderr=log, pass_fds=[told.fileno()])  # fmt: skip
            number = patiently(lambda: int((folder / "display").read_text()))
            environment = os.environ | {"HOME": str(folder), "DISPLAY": f":{number}", "GDK_BACKEND": "x11", "LANG": "en_US.UTF-8",
                                        "WEBKIT_DISABLE_COMPOSITING_MODE": "1", "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1"}  # fmt: skip
            self.process = subprocess.Popen([self.program, f"--port={port}"], stdout=log, stderr=log, env=environment)
        self.url = f"http://127.0.0.1:{port}/session"
        options = {"binary": self.browser, "args": ["--automation"]}
        wanted = {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}}
        told = patiently(lambda: requests.post(self.url, json=wanted, timeout=START_SECONDS).json()["value"])
        self.url += "/" + told["sessionId"]
        self.call("post", "timeouts", script=120_000, pageLoad=120_000)

    def call(self, how: str, what: str, **given: Any) -> Any:
        answer = requests.request(how, f"{self.url}/{what}", json=given if how == "post" else None, timeout=120)
        assert answer.ok, answer.text
        return answer.json()["value"]

    def open(self, url: str) -> None:
        self.call("post", "url", url=url)

    def ask(self, expression: str) -> Any:
        script = f"""const tell = arguments[0];
            (async () => JSON.stringify([await ({expression})]))().then(tell, (error) => tell("!" + error));"""
        told = self.call("post", "execute/async", script=script, args=[])
        assert not told.startswith("!"), told
        return json.loads(told)[0]

    def press(self, key: str) -> None:
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.call("post", "actions", actions=[{"type": "key", "id": "keys", "actions": keys}])

    def click(self, x: float, y: float) -> None:
        moves = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}, *POINTER]
        self.call("post", "actions", actions=[{"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"},
                                               "actions": moves}])  # fmt: skip

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("get", "screenshot"))

    def close(self) -> None:
        requests.delete(self.url, timeout=60)
        end(self.process)
        end(self.display)


def patiently(attempt) -> Any:
    """What it gives, once it gives something: a program that was just started does not answer yet."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return attempt()
        except (OSError, ValueError, KeyError, TypeError, websocket.WebSocketException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
