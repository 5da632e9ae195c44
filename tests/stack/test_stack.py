"""Tests docker-compose.yml by running it: built, started, used from outside, killed, stopped, backed up, restored."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from postgres import free_port

pytestmark = pytest.mark.stack

HOST = "mlflow.example.org"
SECRET = "a-secret-that-no-image-and-no-log-may-hold"
PASSWORDS = {"POSTGRES_PASSWORD": SECRET, "TEAM_PASSWORD": SECRET}  # what .env.example asks for
CLIENTS = {
    "PREFECT_API_AUTH_STRING": f"admin:{SECRET}",
    "MLFLOW_TRACKING_USERNAME": "admin",
    "MLFLOW_TRACKING_PASSWORD": SECRET,
}
TRAINING = ["data.name=digits", "registry.name=stacked", 'model.trunk={"name": "mlp", "widths": [32]}']


def run(command: Sequence[str], **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def within(seconds: float, found: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} seconds"
        time.sleep(1)
    return result


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Returns a Docker engine: the one that runs, or one that the tests start."""
    if shutil.which("docker") is None:
        pytest.skip("Docker is not installed: apt-get install docker.io docker-compose")
    answers = lambda: not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode  # noqa: E731
    if answers():
        yield
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("no Docker engine answers, and none can be started here")
    log = tmp_path_factory.mktemp("docker") / "dockerd.log"
    engine = subprocess.Popen(["dockerd"], stdout=log.open("w"), stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while not answers():
            if engine.poll() is not None or time.monotonic() > end:
                pytest.skip(f"no Docker engine can run here: {log.read_text()[-500:]}")
            time.sleep(1)
        yield
    finally:
        engine.terminate()
        engine.wait(60)


@dataclass
class Stack:
    """Runs a project that has ports, volumes and images of its own."""

    command: list[str]
    environment: dict[str, str]

    def __call__(self, *arguments: str) -> str:
        return run([*self.command, *arguments], **self.environment)

    def up(self) -> float:
        """Starts the services, and returns the seconds until every one is healthy."""
        started = time.monotonic()
        self("up", "-d")
        within(240, self.healthy, "health")
        return time.monotonic() - started

    def container(self, service: str) -> str:
        return self("ps", "-q", service).strip()

    def inspect(self, service: str, what: str) -> str:
        return run(["docker", "inspect", "--format", what, self.container(service)]).strip()

    def healthy(self) -> bool:
        services = ("postgres", "mlflow", "prefect", "worker")
        return all(self.inspect(name, "{{.State.Health.Status}}") == "healthy" for name in services)

    @property
    def clients(self) -> dict[str, str]:
        """Returns the environment of those outside, who use the published ports."""
        ports = {name: self.environment[f"{name}_PORT"] for name in ("MLFLOW", "PREFECT")}
        return {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports['MLFLOW']}",
            "PREFECT_API_URL": f"http://127.0.0.1:{ports['PREFECT']}/api",
            **CLIENTS,
        }


def pulled(image: str) -> bool:
    """Tells whether a registry has the image; a network that drops packets has none."""
    try:
        return not subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, timeout=120).returncode
    except subprocess.TimeoutExpired:
        return False


@pytest.fixture(scope="module")
def stack(docker: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:  # noqa: ARG001
    plugin = not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    environment = dict(PASSWORDS)
    for name in ("MLFLOW", "PREFECT", "POSTGRES"):
        environment[f"{name}_PORT"] = str(free_port())
    environment["PREFECT_URL"] = f"http://127.0.0.1:{environment['PREFECT_PORT']}"
    environment |= {"MLFLOW_URL": f"https://{HOST}"}  # as if behind a proxy
    if not pulled("python:3.11.14-slim-bookworm"):  # no registry: made from Debian
        run(["bash", "tests/stack/base_images.sh"])
        environment |= {"BASE_IMAGE": "aemodels-test/python", "POSTGRES_IMAGE": "aemodels-test/postgres"}
    empty = tmp_path_factory.mktemp("stack") / "env"
    empty.touch()  # a person's own .env must not decide
    command = [*(["docker", "compose"] if plugin else ["docker-compose"]), "-p", "aemodels-test"]
    stack = Stack([*command, "--env-file", str(empty)], environment | {"COMPOSE_PROJECT_NAME": "aemodels-test"})
    stack("build")
    try:
        print(f"healthy after {stack.up():.0f} s", file=sys.stderr)
        yield stack
    finally:
        print(stack("logs", "--tail", "30"))
        stack("down", "--volumes")


def aemodels(stack: Stack, store: Path, *arguments: str) -> Any:
    """Runs a command of the project on the host."""
    places = {"AEMODELS_STORE": str(store), "PREFECT_HOME": str(store / "prefect")}
    return json.loads(run([sys.executable, "-m", "flows.cli.main", *arguments, "--json"], **stack.clients, **places))


def digests(client: Any, run_id: str) -> dict[str, str]:
    """Returns the digests of all files of a run, in whatever folder they lie."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(client.download_artifacts(run_id, "", scratch))
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kept(stack: Stack) -> dict[str, Any]:
    """Returns everything that must survive: runs, the bytes of artifacts, models with aliases, deployments."""
    from mlflow import MlflowClient

    client = MlflowClient(stack.clients["MLFLOW_TRACKING_URI"])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    artifacts = {one.info.run_id: digests(client, one.info.run_id) for one in runs}
    models = {model.name: dict(model.aliases) for model in client.search_registered_models()}
    with prefect(stack) as flows:
        deployments = sorted(deployment.name for deployment in flows.read_deployments())
    return {
        "runs": {one.info.run_id: (one.info.status, one.data.metrics) for one in runs},
        "artifacts": artifacts,
        "models": models,
        "deployments": deployments,
    }


def use(stack: Stack, store: Path, model: str) -> None:
    """Checks that the model's files exist and are a model."""
    run(
        [sys.executable, "-m", "flows.cli.main", "generate", model, "-n", "4", "-o", str(store / "out.png")],
        **stack.clients,
        AEMODELS_STORE=str(store),
    )


def test_the_stack(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLIENTS.items():
        monkeypatch.setenv(name, value)
    # a training on this machine, and one by the worker
    trained = aemodels(stack, tmp_path, "train", *TRAINING, "training.epochs=2")
    settings = {"data": {"name": "digits"}, "registry": {"name": "worked", "tolerance": 100}, "training": {"epochs": 2}}
    settings["tuning"] = {"trials": 2, "epochs": 1}
    queue_and_wait(stack, "pipeline/pipeline", {"settings": settings})
    before = kept(stack)
    assert trained["run_id"] in before["runs"]
    assert before["models"].keys() == {"stacked", "worked"}
    assert before["models"]["worked"]["champion"] == "1"
    assert {"overview.png", "report.html"} <= before["artifacts"][trained["run_id"]].keys()
    memory = run(["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"])
    print(memory, file=sys.stderr)

    # the Prefect server is killed, not stopped
    os.kill(int(stack.inspect("prefect", "{{.State.Pid}}")), signal.SIGKILL)
    within(60, lambda: int(stack.inspect("prefect", "{{.RestartCount}}")) == 1, "a restart")
    within(120, stack.healthy, "Prefect again")

    # down and up
    stack("down")
    print(f"up again after {stack.up():.0f} s", file=sys.stderr)
    assert kept(stack) == before

    # backup, all volumes gone, restore
    compose = {"COMPOSE": " ".join(stack.command), **stack.environment}
    folder = ROOT / run(["bash", "ops/backup.sh"], **compose).strip()
    try:
        stack("down", "--volumes")
        run(["bash", "ops/restore.sh", str(folder)], **compose)
        within(240, stack.healthy, "health after the restore")
        assert kept(stack) == before
        use(stack, tmp_path, "worked@champion")
        queue_and_wait(stack, "evaluate/evaluate", {"model": "worked@champion"})
        delete_for_good(stack, trained["run_id"])
    finally:
        shutil.rmtree(folder)


def delete_for_good(stack: Stack, run_id: str) -> None:
    """Deletes runs in the way that docs/operations.md describes."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(stack.clients["MLFLOW_TRACKING_URI"])
    client.delete_run(run_id)
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    given = ["-e", "MLFLOW_TRACKING_URI=http://127.0.0.1:5000"]
    database = "postgresql+psycopg://aemodels@postgres/mlflow"
    stack("exec", "-T", *given, "mlflow", "mlflow", "gc", "--backend-store-uri", database)
    with pytest.raises(MlflowException):
        client.get_run(run_id)


@contextmanager
def prefect(stack: Stack) -> Iterator[Any]:
    """Returns Prefect's client, as used from outside."""
    from prefect import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    address = {
        PREFECT_API_URL: stack.clients["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: CLIENTS["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(address), get_client(sync_client=True) as client:
        yield client


def queue_and_wait(stack: Stack, deployment: str, parameters: dict[str, Any]) -> None:
    """Lets the worker in its container do a run."""
    with prefect(stack) as client:
        known = client.read_deployment_by_name(deployment)
        queued = client.create_flow_run_from_deployment(known.id, parameters=parameters).id
        within(240, lambda: client.read_flow_run(queued).state.is_final(), deployment)
        assert client.read_flow_run(queued).state.name == "Completed"


def status(request: str | urllib.request.Request) -> tuple[int, str]:
    """Returns the status of a request without a password."""
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_pages_are_there_and_passwords_are_asked_for(stack: Stack) -> None:
    mlflow, prefect = stack.clients["MLFLOW_TRACKING_URI"], stack.environment["PREFECT_URL"]
    assert status(f"{prefect}/") == (200, "text/html; charset=utf-8")  # the page that asks for it
    assert status(f"{prefect}/api/admin/version")[0] == 401
    assert status(urllib.request.Request(f"{prefect}/api/flow_runs/filter", data=b"{}"))[0] == 403  # without a token
    assert status(f"{mlflow}/")[0] == 401
    assert status(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1")[0] == 401


def test_mlflows_own_pages_may_write_behind_a_proxy_and_others_may_not(stack: Stack) -> None:
    for origin, expected in ((f"https://{HOST}", 401), ("https://elsewhere.example.org", 403)):
        request = urllib.request.Request(
            f"{stack.clients['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/create",
            data=b"{}",
            headers={"Origin": origin, "Host": HOST, "Content-Type": "application/json"},
        )
        assert status(request)[0] == expected


def test_no_secret_is_in_an_image_or_a_log(stack: Stack) -> None:
    for image in ("aemodels-server:0.1.0", "aemodels-worker:0.1.0"):
        assert SECRET not in run(["docker", "inspect", image])
        assert SECRET not in run(["docker", "history", "--no-trunc", image])
        assert run(["docker", "inspect", "--format", "{{.Config.User}}", image]).strip() == "aemodels"
    assert SECRET not in stack("logs")


def test_the_ports_are_this_machines_alone(stack: Stack) -> None:
    for service, port in (("mlflow", "5000"), ("prefect", "4200"), ("postgres", "5432")):
        assert stack("port", service, port).startswith("127.0.0.1:")
    project = "label=com.docker.compose.project=aemodels-test"
    published = run(["docker", "ps", "--filter", project, "--format", "{{.Ports}}"])
    assert "127.0.0.1:" in published
    assert "0.0.0.0" not in published
