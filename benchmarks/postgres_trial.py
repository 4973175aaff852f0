"""Try MLflow on a real PostgreSQL: two machines copy to one server at once, and not one metric is lost.

    python -m benchmarks.postgres_trial

starts Debian's PostgreSQL (`apt-get install postgresql`; as user postgres where this runs as root) and an MLflow
server, both on free ports and in a temporary folder, and ends them. docs/scale.md has the same set-up for good. Needs
the extra `postgres`: psycopg2-binary.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

EXPERIMENTS = ("first", "second")
ROWS, METRICS = 200, 12
SECONDS_TO_START = 120.0


@click.command()
def main() -> None:
    """Print what was tried as JSON; end with 1 if a metric is missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with postgres(folder / "postgres") as database, server(folder, database) as address:
            found = trial(address, database, folder)
    click.echo(json.dumps(found, indent=2))
    if found["metrics"] != found["sent"] or found["schema"] != found["schema_wanted"]:
        raise SystemExit(1)


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; None where PostgreSQL is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places = [*debian, *(Path(found).parent for found in [shutil.which("initdb")] if found)]
    return next((place for place in places if (place / "pg_ctl").exists() and (place / "createdb").exists()), None)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A database cluster of its own on 127.0.0.1, ended afterwards; yields its address for MLflow."""
    place = programs()
    if place is None:
        raise click.ClickException("no PostgreSQL: apt-get install postgresql")
    folder.mkdir()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    port = free_port()
    data = folder / "data"
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    _as_owner(str(place / "initdb"), "-D", str(data), "-A", "trust", "-U", "mlflow", "-N")
    _as_owner(str(place / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        _as_owner(str(place / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow")
        # the driver is named: SQLAlchemy 2.1 would look for psycopg 3
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        _as_owner(str(place / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")


@contextlib.contextmanager
def server(folder: Path, database: str, workers: int = 2) -> Iterator[str]:
    """An MLflow server over `database`; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--workers",
        str(workers),
        "--backend-store-uri",
        database,
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + SECONDS_TO_START
        while not _healthy(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise click.ClickException((folder / "server.log").read_text(encoding="utf-8")[-2000:])
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def trial(address: str, database: str, folder: Path) -> dict[str, Any]:
    """Two repositories copy at once; what the database itself then holds."""
    import psycopg2  # type: ignore[import-untyped]

    context = multiprocessing.get_context("spawn")
    begun = time.perf_counter()
    writers = [context.Process(target=_write, args=(address, str(folder / name))) for name in EXPERIMENTS]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seconds = time.perf_counter() - begun
    upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", database]
    upgraded = subprocess.run(upgrade, capture_output=True, check=False)
    connection = psycopg2.connect(database.replace("+psycopg2", ""))
    try:
        with connection.cursor() as cursor:

            def one(query: str) -> Any:
                cursor.execute(query)
                row = cursor.fetchone()
                return None if row is None else row[0]

            found = {
                "metrics": one("SELECT count(*) FROM metrics"),
                "sent": len(EXPERIMENTS) * ROWS * METRICS,
                "finished_runs": one("SELECT count(*) FROM runs WHERE status = 'FINISHED'"),
                "schema": one("SELECT version_num FROM alembic_version"),
                "schema_wanted": _schema(database) if upgraded.returncode == 0 else "mlflow db upgrade failed",
                "postgres": one("SHOW server_version"),
            }
    finally:
        connection.close()
    return found | {"metrics_a_second": round(found["sent"] / seconds)}


def _write(address: str, repository: str) -> None:
    Path(repository).mkdir()
    os.environ |= {"MLFLOW_TRACKING_URI": address, "DVC_ROOT": repository}
    from pipeline.tracking import Copier, Tracker

    tracker = Tracker("trial")
    tracker.begin(repository, Path(repository).name, {"sampler.cutdown": 0.2}, {})
    now = int(time.time() * 1000)
    for row in range(ROWS):
        metrics = {f"train/metric{number}": number + row / ROWS for number in range(METRICS)}
        tracker.log_rows([{"epoch": 0, "step": row, "time": now + row, **metrics}])
    tracker.finish()
    Copier().copy(tracker.run_id)  # what was not copied in the seconds that a stage waits


def _schema(database: str) -> str:
    """The newest schema that this MLflow knows."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    return str(ScriptDirectory.from_config(_get_alembic_config(database)).get_current_head())


def _as_owner(*command: str) -> None:
    before = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
    done = subprocess.run([*before, *command], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise click.ClickException(f"{command[0]}: {done.stderr.decode()}")


def _healthy(address: str) -> bool:
    import requests

    try:
        return requests.get(f"{address}/health", timeout=2).ok
    except requests.RequestException:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
