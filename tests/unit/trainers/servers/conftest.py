"""A server of answers that a test gives it, over real HTTP on this machine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from posttrain.trainers.servers.client import Client


class Host(ThreadingHTTPServer):
    """answers: route without its query -> what is answered as JSON, (status, bytes), or a function (host, body) that gives
    either. asked: (route, body) of each request."""

    daemon_threads = True

    def __init__(self, **answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked = {f"/{route.replace('__', '/')}": answer for route, answer in answers.items()}, []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.client = Client(f"http://127.0.0.1:{self.server_address[1]}", 1.0)

    def handle_error(self, request, client_address):
        pass  # clients that gave up

    def bodies(self, route: str) -> list:
        return [json.loads(body) for name, body in self.asked if name == route and body]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = self.path.partition("?")[0]
        self.server.asked.append((route, body))
        answer = self.server.answers.get(route, (404, b"no such route"))
        answer = answer(self.server, body) if callable(answer) else answer
        status, content = answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode())
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", content.decode())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def start():
    hosts = []

    def run(**answers) -> Host:
        hosts.append(Host(**answers))
        return hosts[-1]

    yield run
    for host in hosts:
        host.shutdown()
        host.server_close()
