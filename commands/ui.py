"""Show the runs in MLflow (no DVC stage): sets up the view that compares them, starts the server, opens the link."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import click

from pipeline.errors import InputError
from stages.command import stage

HOST = "127.0.0.1"  # MLflow has no password
SECONDS_TO_START = 120
SECONDS_TO_END = 10


@click.command(name="ui")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--experiment", metavar="NAME", help="MLflow experiment; params.yaml's tracking.experiment by default.")
@click.option("--open/--no-open", "opens", default=True, help="Open the link in a browser, where there is a desktop.")
@stage
def main(port: int, experiment: str | None, opens: bool) -> None:
    """Open the runs of an experiment: best first, what varied and the recalls as columns, charts that compare them.

    With MLFLOW_TRACKING_URI=http://… the view is set up there and no server is started here.
    """
    from pipeline.params import load_params
    from pipeline.tracking import read_uri, server_uri, set_up_view, without_password

    wanted = experiment or load_params().tracking.experiment
    uri, remote = read_uri(), server_uri() is not None
    if not remote:
        _check_port(port)
        path = uri.removeprefix("sqlite:///")
        if uri != path and not os.path.exists(path):
            raise InputError(f"{path}: no runs yet; make repro makes the first")
    links = set_up_view(wanted, make=experiment is None)
    address = without_password(uri) if remote else f"http://{HOST}:{port}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server always ends with this process
    server = None if remote else _start(uri, port, links["table"])
    try:
        if server is not None and not _answers(server, f"{address}/health"):
            raise InputError(f"MLflow did not start at {address}; its messages are above")
        for name, link in links.items():
            click.echo(f"{name}: {address}{link}")
        if opens and _has_desktop():
            click.launch(address + links["table"])
        if server is not None:
            click.echo("Ctrl-C ends it")
            server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if server is not None:
            _end(server)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port}: {error.strerror}; another one: make ui PORT={port + 1}") from None


def _start(uri: str, port: int, view: str) -> subprocess.Popen[bytes]:
    """One worker and no job runner start in a third of the time, with half of the memory."""
    from pipeline.tracking.front import APP, VIEW

    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "ui", "--workers", "1"),
            *("--host", HOST, "--port", str(port), "--backend-store-uri", uri, "--app-name", APP),
        ],
        env=os.environ | quiet | {VIEW: view},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server with its workers: a worker that is told while it starts may miss it."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with suppress(subprocess.TimeoutExpired):
            server.wait(SECONDS_TO_END)


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until the server answers or ends."""
    import requests

    end = time.monotonic() + SECONDS_TO_START
    while server.poll() is None and time.monotonic() < end:
        try:
            return requests.get(address, timeout=5).ok
        except requests.RequestException:
            time.sleep(0.5)
    return False


def _has_desktop() -> bool:
    """Without a desktop, a browser would take over the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


if __name__ == "__main__":
    main()
