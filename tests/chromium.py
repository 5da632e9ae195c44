"""Starts Debian's Chromium for tests of pages; screenshots are kept in build/screenshots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

KEPT = Path(__file__).parents[1] / "build" / "screenshots"


@contextmanager
def started(*options: str) -> Iterator[Any]:
    """Starts a browser, with options of Chromium's own; skips the test where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    KEPT.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *options])
        yield browser
        browser.close()


def logged_in(browser: Any, environment: Mapping[str, str]) -> Any:
    """Returns a fresh context of the browser, in which a person has given the passwords to MLflow and to Prefect."""
    name, password = environment["MLFLOW_TRACKING_USERNAME"], environment["MLFLOW_TRACKING_PASSWORD"]
    credentials = {"username": name, "password": password}
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, http_credentials=credentials)
    for host in ("127.0.0.1", "localhost"):  # two sites, for a browser
        page = context.new_page()
        assert page.goto(environment["MLFLOW_TRACKING_URI"].replace("127.0.0.1", host)).status == 200
        page.goto(environment["PREFECT_API_URL"].removesuffix("/api").replace("127.0.0.1", host))
        page.locator("input[type=password]").fill(environment["PREFECT_API_AUTH_STRING"])
        page.get_by_role("button", name="Login").click()
        page.wait_for_url(lambda url: "/login" not in url)
        page.close()
    return context
