"""Tests pages of other sites, open in the browser of somebody who is logged in to both servers.

Each is tried in Chromium, against the servers as docs/operations.md starts them.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from chromium import logged_in, started
from postgres import free_port
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from team import Service, Team, documented_servers, within

pytestmark = [pytest.mark.browser, pytest.mark.flow]

HERE = Path(__file__).parent
ATTACK, WEBSOCKET = (HERE / "attack.js").read_text(), (HERE / "websocket.js").read_text()
REBOUND = "10.elsewhere.example"  # resolves to this machine; it fits a pattern of MLflow's own, 10.*


class Page(BaseHTTPRequestHandler):
    """Answers every request with an empty page of the attacker."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<body></body>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def page_port() -> Iterator[int]:
    """Serves the attacker's page, and returns its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started("--host-resolver-rules=MAP *.example 127.0.0.1") as browser:
        yield browser


@dataclass
class Target:
    """A target is what a page sends, and where it sends it."""

    path: str
    text: dict[str, Any]
    method: str = "POST"

    def __post_init__(self) -> None:
        assert json.dumps(self.text).count("=") == 1, "forms need it"


def attack(page: Any, server: str, target: Target) -> dict[str, tuple[int, str]]:
    """Sends an attack in all ways, and returns what the page got to read."""
    call = {"url": server + target.path, "text": json.dumps(target.text), "method": target.method, "server": server}
    answers: dict[str, tuple[int, str]] = page.evaluate(ATTACK, call)
    assert len(answers) == 7
    return answers


def granted(answers: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    return {way: answer for way, answer in answers.items() if 200 <= answer[0] < 300}


def pages(page_port: int, server_port: int, own: str) -> list[tuple[str, str]]:
    """Returns the addresses of pages, each with the server that it aims at.

    Args:
        own: a path of the server that answers under every name: of a page under a name that resolves to this machine.
    """
    aims = {"127.0.0.1": "127.0.0.1", "localhost": "localhost", "elsewhere.example": "127.0.0.1"}
    others = [(f"http://{host}:{page_port}/", f"http://{aim}:{server_port}") for host, aim in aims.items()]
    return [*others, (f"http://{REBOUND}:{server_port}{own}", f"http://{REBOUND}:{server_port}")]


def port_of(address: str) -> int:
    return int(address.removesuffix("/api").rpartition(":")[2])


def start_command(deployment: UUID, file: Path) -> Target:
    """Starts a run whose worker makes a file."""
    command = {"name": "a=b", "job_variables": {"command": f"touch {file}"}}
    return Target(f"/api/deployments/{deployment}/create_flow_run", command)


def started_by_pages(client: Any) -> list[Any]:
    found: list[Any] = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["a=b"])))
    return found


def send_event(page: Any, server: str, name: str) -> list[str]:
    """Sends an event through a WebSocket, once as old clients do and once with the words of Prefect's page."""
    event = {"id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": name, "payload": {}}
    text = json.dumps(event | {"resource": {"prefect.resource.id": name}})
    url = server.replace("http", "ws", 1) + "/api/events/in"
    received: list[str] = page.evaluate(WEBSOCKET, {"url": url, "texts": [text], "protocols": []})
    hello = json.dumps({"type": "auth", "token": "none"})
    return received + page.evaluate(WEBSOCKET, {"url": url, "texts": [hello, text], "protocols": ["prefect"]})


def events(client: Any, name: str) -> list[Any]:
    asked = {"filter": {"event": {"name": [name]}}}
    found: list[Any] = client.request("POST", "/events/filter", json=asked).json()["events"]
    return found


def test_no_page_drives_prefect(team: Team, client: Any, browser: Any, page_port: int, tmp_path: Path) -> None:
    assert team.command("flows.deployment.deploy").returncode == 0
    deployment = client.read_deployment_by_name("train/train").id
    start = start_command(deployment, tmp_path / "touched")
    look = Target("/api/flow_runs/filter", {"sort": "ID_DESC", "flow_runs": {"name": {"any_": ["a=b"]}}})
    context = logged_in(browser, team.environment)
    with team.worker():
        for address, server in pages(page_port, port_of(team.environment["PREFECT_API_URL"]), "/api/health"):
            page = context.new_page()
            page.goto(address)
            for target in (start, look):
                assert not granted(attack(page, server, target)), address
            assert send_event(page, server, "aemodels.attack") == [], address
        time.sleep(15)  # a worker would have looked for work by now
    assert started_by_pages(client) == []
    assert not (tmp_path / "touched").exists()
    assert events(client, "aemodels.attack") == []
    assert events(client, "prefect.deployment.created")  # others are there


def mlflow_targets(run_id: str) -> list[Target]:
    """Returns all kinds of writes, and a read that is a POST."""
    user = {"username": "attacker=", "password": "long-enough-password"}
    gone = {"run_id": run_id, "x": "="}
    query = "{mlflowSearchModelVersions(input:{filter:\"name='x'\"}){apiError{message}}}"
    return [
        *(Target(f"/{api}/2.0/mlflow/experiments/create", {"name": "attack="}) for api in ("api", "ajax-api")),
        Target("/api/2.0/mlflow/runs/delete", gone),
        Target("/api/2.0/mlflow/registered-models/create", {"name": "attack="}),
        Target("/api/2.0/mlflow/users/create", user),
        Target("/ajax-api/3.0/mlflow/assistant/config", {"providers": {}, "x": "="}, method="PUT"),  # it runs commands
        Target("/api/2.0/mlflow-artifacts/artifacts/attack.txt", {"x": "="}, method="PUT"),
        Target("/graphql", {"query": query}),
    ]


def mlflow_state(client: Any, folder: Path) -> dict[str, Any]:
    """Returns everything that the targets would change."""
    experiments = client.search_experiments()
    with closing(sqlite3.connect(folder / "users.db")) as users:
        names = [name for (name,) in users.execute("SELECT username FROM users")]
    return {
        "experiments": sorted(experiment.name for experiment in experiments),
        "runs": sorted(run.info.run_id for run in client.search_runs([e.experiment_id for e in experiments])),
        "models": sorted(model.name for model in client.search_registered_models()),
        "users": names,
        "attacked": sorted(path.name for path in folder.rglob("attack*")),
    }


@pytest.mark.usefixtures("client")  # the environment with the password
def test_no_page_drives_mlflow(team: Team, browser: Any, page_port: int) -> None:
    from aemodels.tracking.store import open_store

    tracking = open_store().client
    experiment = tracking.get_experiment_by_name("mine")
    mine = experiment.experiment_id if experiment else tracking.create_experiment("mine")
    targets = mlflow_targets(tracking.create_run(mine).info.run_id)
    before = mlflow_state(tracking, team.folder)
    assert len(before["runs"]) > 0
    assert before["users"] == ["admin"]
    context = logged_in(browser, team.environment)
    for address, server in pages(page_port, port_of(team.environment["MLFLOW_TRACKING_URI"]), "/health"):
        page = context.new_page()
        page.goto(address)
        for target in targets:
            assert not granted(attack(page, server, target)), (address, target)
    assert mlflow_state(tracking, team.folder) == before


@contextmanager
def alone(folder: Path, command: list[str], settings: dict[str, str]) -> Iterator[Team]:
    """Runs a team that has only a Prefect server, on SQLite and without passwords."""
    port = free_port()
    environment = {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_PORT": str(port),
        "PREFECT_SERVER_API_PORT": str(port),
        **settings,
    }
    server = Service(command, folder / "prefect.log", environment, port)
    try:
        server.start()
        within(60, lambda: "Check out the dashboard" in server.log.read_text(), "Prefect")
        yield Team(Service([], folder), server, folder, environment)
    finally:
        server.stop()


def start_from_elsewhere(team: Team, client: Any, browser: Any, page_port: int, file: Path) -> None:
    """Tries to start a run from a page of another site."""
    deployment = client.read_deployment_by_name("train/train").id
    page = browser.new_context().new_page()
    page.goto(f"http://elsewhere.example:{page_port}/")
    attack(page, team.environment["PREFECT_API_URL"].removesuffix("/api"), start_command(deployment, file))


def test_without_passwords_no_page_starts_a_run(browser: Any, page_port: int, tmp_path: Path) -> None:
    settings = {"TEAM_PASSWORD": "without-passwords"}
    with alone(tmp_path, documented_servers()["prefect"], settings) as open_team, open_team.client() as client:
        deployed = open_team.command("flows.deployment.deploy")
        assert deployed.returncode == 0, deployed.stderr
        assert "pages of other sites" not in deployed.stderr
        start_from_elsewhere(open_team, client, browser, page_port, tmp_path / "touched")
        assert started_by_pages(client) == []


def test_the_attack_works_where_nothing_prevents_it(browser: Any, page_port: int, tmp_path: Path) -> None:
    """Without this the other tests could not fail.

    The server is as it was once documented, and `make deploy` warns of it.
    """
    own = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:4200,http://localhost:4200"}
    command = [sys.executable, "-m", "prefect", "server", "start"]
    with alone(tmp_path, command, own) as open_team, open_team.client() as client:
        deployed = open_team.command("flows.deployment.deploy")
        assert deployed.returncode == 0, deployed.stderr
        assert "takes changes from pages of other sites" in deployed.stderr
        start_from_elsewhere(open_team, client, browser, page_port, tmp_path / "touched")
        with open_team.worker():
            within(40, (tmp_path / "touched").exists, "the file")
