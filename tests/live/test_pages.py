"""Tests the pages that people look at, in Chromium. Screenshots are kept in build/screenshots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import KEPT, logged_in, started

pytestmark = [pytest.mark.browser, pytest.mark.flow]

SMALL = ['model.trunk={"name": "mlp", "widths": [64]}', "data.name=digits", "registry.name=shown"]
Open = Callable[[str], Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, team: Any) -> Iterator[Open]:
    """Opens a page in a fresh browser, for a person who has given the passwords and follows a link."""
    context = logged_in(browser, team.environment)

    def visit(url: str) -> Any:
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.goto(url)
        return page

    yield visit
    context.close()


def shoot(page: Any, name: str) -> None:
    page.wait_for_timeout(1_500)  # pictures and charts are drawn after their places
    page.screenshot(path=KEPT / f"{name}.png")


@pytest.fixture(scope="module")
def results(team: Any) -> dict[str, Any]:
    """Makes a search, a champion, and a better challenger."""

    def run(*arguments: str) -> Any:
        done = team.command("flows.cli.main", *arguments, *SMALL, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    searched = run("tune", "model.name=vae", "tuning.trials=4", "tuning.epochs=2")
    weak = run("train", "model.name=vae", "model.latent_dim=2", "training.epochs=2")
    assert team.command("flows.cli.main", "promote", "shown", str(weak["version"])).returncode == 0
    better = run("train", "model.name=vae", "model.latent_dim=16", "training.epochs=40")
    assert team.command("flows.deployment.deploy").returncode == 0
    return {"searched": searched, "weak": weak, "better": better}


def test_the_runs_page_shows_pictures(results: dict[str, Any], open_page: Open) -> None:
    page = open_page(results["better"]["pictures_url"])
    page.get_by_text("vae 16").first.wait_for()
    shoot(page, "mlflow-runs")


def test_a_run_has_cards_of_its_images(results: dict[str, Any], open_page: Open) -> None:
    page = open_page(results["better"]["url"])
    page.get_by_text("vae 16").first.wait_for()
    shoot(page, "mlflow-run")
    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_text("active_units").first.wait_for()
    page.mouse.move(500, 700)
    for _ in range(20):
        if cards := page.locator("img[src*=artifact], img[src^=blob]").all():
            break
        page.mouse.wheel(0, 800)  # cards are drawn where they are in view
        page.wait_for_timeout(500)
    cards[0].scroll_into_view_if_needed()
    shoot(page, "mlflow-cards")
    assert cards[0].evaluate("image => image.naturalWidth") > 100


def test_a_servers_report_is_fetched(results: dict[str, Any], open_page: Open, team: Any) -> None:
    asked = team.command("flows.cli.main", "report", f"shown/{results['better']['version']}", "--json")
    assert asked.returncode == 0, asked.stderr
    file = Path(json.loads(asked.stdout)["report"])
    assert file.is_relative_to(team.environment["AEMODELS_CACHE"])
    page = open_page(file.as_uri())
    page.get_by_role("heading", name="Reconstructions").wait_for()
    page = open_page(results["better"]["url"])
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html").first.click()
    page.frame_locator("iframe").first.get_by_role("heading", name="Metrics").wait_for()
    shoot(page, "mlflow-report")


def test_the_link_of_a_search_compares_its_trials(results: dict[str, Any], open_page: Open) -> None:
    page = open_page(results["searched"]["compare_url"])
    page.get_by_text("trial 0").first.wait_for()
    page.get_by_text("objective").first.wait_for()
    shoot(page, "mlflow-comparison")


def test_the_registry_shows_aliases_and_why(results: dict[str, Any], open_page: Open, team: Any) -> None:
    pages = f"{team.environment['MLFLOW_TRACKING_URI']}/#/models/shown"
    page = open_page(f"{pages}?workflowType=machine_learning")
    for text in ("champion", "challenger"):
        page.get_by_text(text).first.wait_for()
    shoot(page, "mlflow-registry")
    page = open_page(f"{pages}/versions/{results['better']['version']}?workflowType=machine_learning")
    page.get_by_text("test/mse").first.wait_for()
    shoot(page, "mlflow-version")


def test_deployments_have_a_form(results: dict[str, Any], open_page: Open, team: Any, client: Any) -> None:
    del results
    pages = team.environment["PREFECT_API_URL"].removesuffix("/api")
    page = open_page(f"{pages}/deployments")
    page.get_by_text("promote").first.wait_for()
    shoot(page, "prefect-deployments")
    deployment = client.read_deployment_by_name("pipeline/pipeline").id
    page = open_page(f"{pages}/deployments/deployment/{deployment}/run")
    page.get_by_text("latent_dim").first.wait_for()
    shoot(page, "prefect-form")


def test_a_person_approves_on_the_page(
    results: dict[str, Any], open_page: Open, team: Any, client: Any, within: Any
) -> None:
    from aemodels.tracking.catalog import champion
    from aemodels.tracking.history import history
    from aemodels.tracking.store import open_store

    deployment = client.read_deployment_by_name("promote/promote").id
    asked = {
        "settings": {"data": {"name": "digits"}, "registry": {"name": "shown", "tolerance": 100}},
        "approval": True,
    }
    with team.worker():
        run = client.create_flow_run_from_deployment(deployment, parameters=asked).id
        within(90, lambda: client.read_flow_run(run).state.name == "Suspended", "the wait for a person")
        page = open_page(f"{team.environment['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{run}")
        page.get_by_role("button", name="Resume").click()
        form = page.locator(".p-modal")
        form.get_by_alt_text("challenger").wait_for()
        form.get_by_alt_text("champion").wait_for()
        form.get_by_role("switch").click()
        name, reason = form.locator("textarea").all()
        name.fill("anna")
        reason.fill("the samples are digits")
        shoot(page, "prefect-approval")
        form.get_by_role("button", name="Submit").click()
        within(90, lambda: client.read_flow_run(run).state.name == "Completed", "the promotion")
        shoot(page, "prefect-promoted")
    now = champion(open_store(), "shown")
    assert now is not None
    assert now.version.version == results["better"]["version"]
    last = history(open_store(), "shown")[-1]
    assert (last.by, last.replaced) == ("the gate and anna", results["weak"]["version"])
    assert last.reason.endswith("approved by anna: the samples are digits")
