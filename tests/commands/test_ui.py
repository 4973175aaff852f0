"""The command that shows the runs: who can reach the server that it starts."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
import requests

from pipeline.tracking import Tracker, experiments
from tests.stages.running import free_port, invoke_with, start, work_in, write_tiny_params

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LISTENING = "0A"
UP = 120.0  # seconds that MLflow may take to start on a busy machine


def listening(port: int) -> list[str]:
    """The addresses at which somebody listens on this port, as the kernel writes them."""
    found = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.rpartition(":")
            if state == LISTENING and int(number, 16) == port:
                found.append(address)
    return found


def shown(address: str) -> str:
    """Where a person arrives who opens this address and, if it lists experiments, clicks on the one there is."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        if address.endswith("experiments"):
            page.get_by_role("link", name="fne", exact=True).first.click(timeout=UP * 1000)
        page.wait_for_url("**viewStateShareKey=**", timeout=UP * 1000)
        return page.url


def sections_of(run_id: str, address: str) -> list[str]:
    """The sections of a run's tab with charts, from the top, by the first word of their headings."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{address}/#/experiments/1/runs/{run_id}/model-metrics")
        page.get_by_role("button", name="Add chart").first.wait_for(timeout=UP * 1000)
        lines = page.locator("body").inner_text().splitlines()
        return [name for name in lines if name in ("val", "train", "test", "last")]


def metrics_of(run_id: str, address: str) -> list[str]:
    """The metrics of a run, in the order in which its page lists them."""
    query = f'{{mlflowGetRun(input: {{runId: "{run_id}"}}) {{run {{data {{metrics {{key}}}}}}}}}}'
    answer = requests.post(f"{address}/graphql", json={"query": query}, timeout=UP).json()
    return [metric["key"] for metric in answer["data"]["mlflowGetRun"]["run"]["data"]["metrics"]]


def test_a_misspelt_experiment_is_named_and_not_made(clone: Path) -> None:
    write_tiny_params(clone)
    Tracker("fne")
    result = invoke_with("ui", "--no-open", "--port", str(free_port()), "--experiment", "tpyo")
    there = f"sqlite:///{clone}/mlflow.db"
    assert result.output == f"error: no experiment 'tpyo' in {there}; experiments there: fne\n"
    assert experiments() == ["fne"]


@pytest.mark.browser
@pytest.mark.server
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; on Debian: apt-get install chromium")
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
def test_it_opens_the_view_on_this_machine_alone_and_ends_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = work_in(tmp_path, monkeypatch)
    write_tiny_params(clone)
    tracker = Tracker("fne")
    tracker.begin("key", "a run", {}, {})
    tracker.log_rows([{"step": 1, "train/loss": 1.0}])
    tracker.log_rows([{"step": 1, "test/rsum": 300.0}])
    tracker.finish()
    run_id = tracker.run_id
    port = free_port()
    command = start("ui", "--no-open", "--port", str(port))
    try:
        give_up = time.monotonic() + UP
        while not listening(port) and command.poll() is None and time.monotonic() < give_up:
            time.sleep(0.2)
        assert listening(port) == ["0100007F"], "127.0.0.1 and nothing else"
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=UP).text == "OK"
        assert metrics_of(run_id, f"http://127.0.0.1:{port}") == ["test/rsum", "train/loss"]
        assert sections_of(run_id, f"http://127.0.0.1:{port}") == ["val", "train", "test", "last"], "curves first"
        for way in ("/", "/#/experiments"):
            assert "compareRunsMode=TABLE&viewStateShareKey=comparison" in shown(f"http://127.0.0.1:{port}{way}")
    finally:
        command.send_signal(signal.SIGTERM)
        command.communicate(timeout=UP)
    assert listening(port) == []
