"""A door before an MLflow server: all that stages see of it, and it misbehaves."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def do_GET(self) -> None:
        door, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        behaviour = door.behaviour_of_the_next()
        if behaviour == "slow":
            time.sleep(door.seconds)
        status, content, kind = 500, b"Internal Server Error", "text/plain"
        if behaviour in ("pass", "slow", "late"):
            kept = {"Content-Type": self.headers.get("Content-Type", "")}
            answer = requests.request(self.command, door.behind + self.path, data=body, headers=kept, timeout=60)
            status, content, kind = answer.status_code, answer.content, answer.headers.get("Content-Type", "")
        with suppress(OSError):  # who asked may have gone
            if behaviour == "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not door.closed.wait(0.1):
                    self.wfile.write(b" ")
            if behaviour == "hang":
                door.closed.wait()
            if behaviour in ("drip", "hang", "late", "cut"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class Door(ThreadingHTTPServer):
    """A proxy that can `pass`, answer `500`, `hang`, `cut` or `drip`, be `slow`, or `late`: done, but not answered."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        """Stand before the server at address `behind`."""
        super().__init__(("127.0.0.1", 0), _Request)
        self.behind, self.behaviour, self.seconds = behind, "pass", 0.0
        self.asked = 0
        self.fails_at, self.then = 0, ""
        self.closed = threading.Event()
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fail_at(self, number: int, behaviour: str) -> None:
        """Pass until request `number` from now, and behave so from then on."""
        self.behaviour, self.asked, self.fails_at, self.then = "pass", 0, number, behaviour

    def behaviour_of_the_next(self) -> str:
        """Of the request that has just come."""
        self.asked += 1
        if self.asked == self.fails_at:
            self.behaviour = self.then
        return self.behaviour
