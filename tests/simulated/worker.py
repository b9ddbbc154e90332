"""Runs the tests of this folder in processes of their own, and tells their results to the session that was started.

The device must be there before anything imports the host, and the host reads its flags once: so there is a process for each
set of flags. It is an ordinary pytest session that is told test by test what to run; reports cross as pytest's own.
"""
from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

HERE = Path(__file__).resolve().parent
ADDRESS, KEY, FLAGS = "SIMULATED_ADDRESS", "SIMULATED_KEY", "SIMULATED_FLAGS"


def flags_of(item: pytest.Item) -> tuple[str, ...]:
    """What the test's ``card`` mark says: flags of the host, "mac", "dynamic" for the host's dynamic VRAM, or "none" where the
    test needs no card in its own process."""
    mark = item.get_closest_marker("card")
    return mark.args if mark else ()


class Worker:
    """A process with the simulated card, started at its first test."""

    def __init__(self, flags: tuple[str, ...], config: pytest.Config):
        self.flags, self.config = flags, config
        self.log = tempfile.NamedTemporaryFile("wb", prefix="simulated-", suffix=".log", delete=False)
        key = secrets.token_bytes(16)
        with Listener(authkey=key) as listener:
            command = [sys.executable, "-P", "-m", "pytest", str(HERE), "-q", "-p", "no:cacheprovider",
                       "-c", str(config.inipath), "--rootdir", str(config.rootpath)]
            variables = os.environ | {ADDRESS: _text(listener.address), KEY: key.hex(), FLAGS: " ".join(flags)}
            variables.pop("PYTEST_XDIST_WORKER", None)
            self.process = subprocess.Popen(command, env=variables, cwd=config.rootpath, stdin=subprocess.DEVNULL,
                                            stdout=self.log, stderr=subprocess.STDOUT)
            self.connection = _accepted(listener, self.process)

    def run(self, item: pytest.Item) -> list[pytest.TestReport]:
        try:
            if self.connection is None:
                raise EOFError
            self.connection.send(item.nodeid)
            found = self.connection.recv()
        except (EOFError, OSError):
            return [self._died(item)]
        return [self.config.hook.pytest_report_from_serializable(config=self.config, data=data) for data in found]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _died(self, item: pytest.Item) -> pytest.TestReport:
        code = self.process.wait()
        words = (f"The process with the simulated card (flags {self.flags}) ended with {code}. Its last words:\n"
                 + Path(self.log.name).read_text(encoding="utf-8", errors="replace")[-4000:])
        return pytest.TestReport(item.nodeid, item.location, {}, "failed", words, "call")

    def stop(self) -> None:
        if self.connection is not None and self.alive:
            try:
                self.connection.send(None)
                self.process.wait(timeout=20)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.wait()
        self.log.close()
        Path(self.log.name).unlink(missing_ok=True)


def _accepted(listener: Listener, process: subprocess.Popen) -> Connection | None:
    """The child's call; None where it ended before it could call."""
    import threading
    caller: list[Connection] = []
    thread = threading.Thread(target=lambda: caller.append(listener.accept()), daemon=True)
    thread.start()
    while thread.is_alive() and process.poll() is None:
        thread.join(0.2)
    return caller[0] if caller else None


def serve(session: pytest.Session) -> None:
    """The child's loop: a test's name in, its reports out."""
    items = {item.nodeid: item for item in session.items}
    hook = session.config.hook
    with Client(_address(os.environ[ADDRESS]), authkey=bytes.fromhex(os.environ[KEY])) as connection:
        for name in iter(connection.recv, None):
            reports = runtestprotocol(items[name], log=False, nextitem=None)
            connection.send([hook.pytest_report_to_serializable(config=session.config, report=report) for report in reports])


def _text(address) -> str:
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def _address(text: str):
    host, _, port = text.rpartition(":")
    return (host, int(port)) if port.isdigit() and host else text
