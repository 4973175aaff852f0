"""Tracking servers that fail: on 127.0.0.1, before a real MLflow server's face or in its place."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

UP = 120.0  # seconds that a real server may take to start on a busy machine


class Gate:
    """A proxy whose behaviour can be changed at any moment: `pass`, `500`, `hang`, `cut`, `slow`, `drip`."""

    def __init__(self, server: int | None = None) -> None:
        """Stand before the server on port `server`; None: there is none."""
        self.behaviour = "pass"
        self.server = server
        self.seconds = 1.6
        """How long a slow one takes for an answer, and one that drips for the next byte."""
        self.asked: list[str] = []
        self.after: tuple[str, int] | None = None
        """From request number n on, behave so."""
        self._ended = threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                gate.answer(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        """What MLFLOW_TRACKING_URI is set to."""
        return f"http://127.0.0.1:{self.port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request, as the gate behaves just now."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append(request.path)
        if self.after is not None and len(self.asked) >= self.after[1]:
            self.behaviour, self.after = self.after[0], None
        if self.behaviour == "hang":
            self._ended.wait()
        if self.behaviour == "slow":
            self._ended.wait(self.seconds)
        if self.behaviour == "drip":
            self._drip(request)
        if self.behaviour in ("hang", "cut", "drip") or self.server is None:
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        headers: list[tuple[str, str]]
        if self.behaviour == "500":
            status, content, headers = 500, b"Internal Server Error", []
        else:
            status, content, headers = self._pass(request, body)
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "content-length", "transfer-encoding", "server", "date"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _drip(self, request: BaseHTTPRequestHandler) -> None:
        """An answer that never ends, and is never silent for as long as a timeout between bytes."""
        try:
            request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
            while not self._ended.wait(self.seconds):
                request.wfile.write(b" ")
        except OSError:  # who asked has gone
            return

    def _pass(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        try:
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheaders()
        finally:
            connection.close()

    def close(self) -> None:
        """Let those who hang go, and refuse everybody from now on."""
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def gate(server: int | None = None, behaviour: str = "pass") -> Iterator[Gate]:
    """A gate for the time of the block."""
    opened = Gate(server)
    opened.behaviour = behaviour
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A real `mlflow server` with a database and artifacts below `folder`; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    store, artifacts = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--artifacts-destination"]
    command += [artifacts, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        give_up = time.monotonic() + UP
        while not _answers(port):
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < give_up
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
