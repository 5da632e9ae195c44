"""Tests the servers as docs/operations.md starts them without containers: what they ask for and what they hide."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
from team import ROOT, Team

pytestmark = [pytest.mark.live, pytest.mark.flow]


def status(url: str) -> int:
    """Returns the status of a request without a password."""
    try:
        with urllib.request.urlopen(url) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_both_ask_for_a_password(team: Team) -> None:
    mlflow, prefect = team.environment["MLFLOW_TRACKING_URI"], team.environment["PREFECT_API_URL"]
    assert status(f"{mlflow}/") == 401
    assert status(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1") == 401
    assert status(f"{prefect}/admin/version") == 401
    assert status(f"{prefect}/csrf-token?client=x") == 401


def test_no_password_is_in_a_command_or_a_file_that_others_read(team: Team) -> None:
    passwords = {team.environment[name] for name in ("TEAM_PASSWORD", "PGPASSWORD")}
    with team.worker() as worker:
        running = [*team.mlflow.processes(), *team.prefect.processes(), *worker.processes()]
        assert len(running) >= 4  # MLflow's second one serves
        for process in running:
            assert not any(password in " ".join(process.cmdline()) for password in passwords)
    for log in (team.mlflow.log, team.prefect.log, worker.log):
        assert not any(password in log.read_text() for password in passwords)
    (users,) = team.folder.rglob("users.db")
    written = [users, *(team.folder / "artifacts").rglob("*")]
    assert not any(path.stat().st_mode & 0o077 for path in written)


def test_prefects_page_calls_the_port_that_was_given_and_nothing_is_reported(team: Team, client: Any) -> None:
    with urllib.request.urlopen(team.environment["PREFECT_API_URL"].removesuffix("/api") + "/ui-settings") as answer:
        page = json.load(answer)
    assert page["api_url"] == team.environment["PREFECT_API_URL"]
    assert page["csrf_enabled"]
    settings = client.request("GET", "/admin/settings").json()
    assert settings["server"]["analytics_enabled"] is False
    for server in (team.mlflow, team.prefect):
        assert all(process.environ()["DO_NOT_TRACK"] == "1" for process in server.processes())
    assert settings["server"]["concurrency"]["lease_storage"].endswith(".filesystem")


def test_deploying_says_nothing_of_a_server_that_is_closed_to_other_pages(team: Team) -> None:
    deployed = team.command("flows.deployment.deploy")
    assert deployed.returncode == 0, deployed.stderr
    assert "note:" not in deployed.stderr


def change_password(team: Team, old: str, new: str) -> None:
    """Changes a password in the way that docs/operations.md describes."""
    text = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r'python3 -c "\n((?:    .*\n)*?.*update_user_password.*\n)    "\n', text)
    assert found
    code = re.sub("^    ", "", found[1], flags=re.MULTILINE)
    environment = os.environ | team.environment | {"MLFLOW_TRACKING_PASSWORD": old}
    subprocess.run(  # without a terminal getpass reads what it is given
        [sys.executable, "-c", code], env=environment, input=f"{new}\n", text=True, check=True, start_new_session=True
    )


def test_a_password_is_changed_as_documented(team: Team) -> None:
    known, new = team.environment["TEAM_PASSWORD"], "another-long-password"
    change_password(team, known, new)
    try:
        refused = team.command("flows.cli.main", "models")
        assert refused.returncode == 2
        assert "MLFLOW_TRACKING_PASSWORD" in refused.stderr
    finally:
        change_password(team, new, known)
    assert team.command("flows.cli.main", "models").returncode == 0
