"""The page in a real browser, without a network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def opened(browser: Browser, path: Path, complaints: list[str], *, scripts: bool = True, width: int = 1280) -> Page:
    """The page, offline; what the console says and what is asked of a network goes into `complaints`."""
    size = {"width": width, "height": 800}
    page = browser.new_context(offline=True, java_script_enabled=scripts, viewport=size).new_page()  # type: ignore[arg-type]
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else complaints.append(asked.url))
    page.goto(path.as_uri())
    return page
