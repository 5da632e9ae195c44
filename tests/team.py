"""What a team runs, for real: PostgreSQL, MLflow and Prefect on free ports of this machine, and a worker.

    with running(postgres, folder) as team, team.worker():
        team.deploy()

All of it ends with its block.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml
from postgres import Server, free_port

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
MNIST = Path(__file__).parents[2] / "shared" / "data"  # where it is there; else scikit-learn's digits


def within(seconds: float, found: Callable[[], T | None], what: str) -> T:
    """What is found, as soon as it is; false and None are nothing. The seconds are those of a quiet machine."""
    end = time.monotonic() + 3 * seconds
    while not (result := found()):
        assert time.monotonic() < end, f"{what}: not within {3 * seconds:g} seconds"
        time.sleep(0.5)
    return result


@dataclass
class Service:
    """A program that is started, stopped, killed, and started again."""

    command: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None  # that it listens on
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env={**os.environ, **self.environment}, start_new_session=True
            )
        if self.port is not None:
            within(120, self.listens, f"{self.command} on {self.port}, see {self.log}")

    def listens(self) -> bool:
        """Whether the port is this program's, and no other's that was faster."""
        assert self.process is not None
        assert self.process.poll() is None, f"ended at its start:\n{self.log.read_text()[-3000:]}"
        return any(
            connection.laddr.port == self.port and connection.status == psutil.CONN_LISTEN
            for process in self.processes()
            for connection in process.net_connections("tcp")
        )

    def processes(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """With all that it started, at once, as a power cut does."""
        for process in self.processes():
            process.kill()
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        if self.process is None:
            return
        running = self.processes()
        for process in running[:1]:
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(running, timeout=30)
        for process in alive:
            process.kill()
        self.process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@dataclass
class Team:
    """What a team runs: the two servers, a worker, and the folders of this machine."""

    mlflow: Service
    prefect: Service
    folder: Path
    environment: dict[str, str]  # of the worker, and of whoever uses the servers

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the project's, to its end."""
        command = [sys.executable, "-m", *arguments]
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    @contextmanager
    def worker(self, name: str = "worker") -> Iterator[Service]:
        """As `make worker` starts it."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "aemodels", "--name", name]
        service = Service(command, self.folder / f"{name}.log", self.environment)
        service.start()
        try:
            yield service
        finally:
            service.stop()

    def deploy(self, model: str = "digits", **changes: dict[str, Any]) -> None:
        """Deploys prefect.yaml, with triggers of another model, and some deployments changed."""
        text = (ROOT / "prefect.yaml").read_text().replace("aemodels.model.digits", f"aemodels.model.{model}")
        plan = yaml.safe_load(text)
        for deployment in plan["deployments"]:
            deployment.update(changes.get(deployment["name"], {}))
        path = self.folder / "prefect.yaml"
        path.write_text(yaml.safe_dump(plan))
        done = self.command("flows.deploy", "--file", str(path))
        assert done.returncode == 0, done.stderr


@contextmanager
def running(postgres: Server, folder: Path) -> Iterator[Team]:
    """Both servers, started; they end with the block."""
    ports = {"mlflow": free_port(), "prefect": free_port()}
    environment = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports['mlflow']}",
        "PREFECT_API_URL": f"http://127.0.0.1:{ports['prefect']}/api",
        "OPTUNA_STORAGE": postgres.url("optuna"),
        "AEMODELS_STORE": str(folder / "store"),
        "AEMODELS_CACHE": str(folder / "cache"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    if (MNIST / "MNIST").exists():
        environment["AEMODELS_DATA"] = str(MNIST)
    mlflow = ["mlflow", "server", "--backend-store-uri", postgres.url("mlflow")]
    mlflow += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--workers", "1"]
    prefect = ["prefect", "server", "start", "--host", "127.0.0.1"]
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url("prefect", "postgresql+asyncpg")}
    database["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] = "prefect.server.concurrency.lease_storage.filesystem"
    services = [
        Service(
            [sys.executable, "-m", *command, "--port", str(ports[name])],
            folder / f"{name}.log",
            environment | database,
            ports[name],
        )
        for name, command in (("mlflow", mlflow), ("prefect", prefect))
    ]
    try:
        for service in services:
            service.start()
        within(60, lambda: answers(f"{environment['MLFLOW_TRACKING_URI']}/health"), "MLflow")
        within(60, lambda: answers(f"{environment['PREFECT_API_URL']}/health"), "Prefect")
        yield Team(*services, folder, environment)
    finally:  # they have sessions of their own: nothing else would end them
        for service in services:
            service.stop()
