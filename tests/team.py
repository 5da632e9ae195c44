"""Runs what a team runs: PostgreSQL, MLflow and Prefect on free ports of this machine, and a worker.

    with running(postgres, folder) as team, team.worker():
        team.deploy()

All of it ends with its block.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml
from places import COLLECTIONS, ROOT
from postgres import Server, free_port

T = TypeVar("T")


def within(seconds: float, found: Callable[[], T | None], what: str) -> T:
    """Waits until a function returns neither false nor None; the seconds are those of a quiet machine."""
    end = time.monotonic() + 3 * seconds
    while not (result := found()):
        assert time.monotonic() < end, f"{what}: not within {3 * seconds:g} seconds"
        time.sleep(0.5)
    return result


@dataclass
class Service:
    """A service is a program that is started, stopped, killed, and started again."""

    command: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None  # that it listens on
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        if self.port is not None:
            within(120, self.listens, f"{self.command} on {self.port}, see {self.log}")

    def listens(self) -> bool:
        """Tells whether the port is this program's, and not that of a program that was faster."""
        assert self.process is not None
        assert self.process.poll() is None, f"ended at its start:\n{self.log.read_text()[-3000:]}"
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # what a script starts may have ended by now
                for connection in process.net_connections("tcp"):
                    if connection.laddr.port == self.port and connection.status == psutil.CONN_LISTEN:
                        return True
        return False

    def processes(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kills the program with all that it started, at once, as a power cut does."""
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
    """A team has the two servers, a worker, and the folders of this machine."""

    mlflow: Service
    prefect: Service
    folder: Path
    environment: dict[str, str]  # of the worker, and of whoever uses the servers

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the project to its end."""
        command = [sys.executable, "-m", *arguments]
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Returns Prefect's client, with the password."""
        from prefect import get_client
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        known = {setting: self.environment.get(setting.name) for setting in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
        with temporary_settings(known), get_client(sync_client=True) as client:
            yield client

    @contextmanager
    def worker(self, name: str = "worker") -> Iterator[Service]:
        """Runs a worker, as `make worker` starts it."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "aemodels", "--name", name]
        service = Service(command, self.folder / f"{name}.log", {**self.environment, "DO_NOT_TRACK": "1"})
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
        done = self.command("flows.deployment.deploy", "--file", str(path))
        assert done.returncode == 0, done.stderr


def filled_in(values: Mapping[str, str]) -> dict[str, str]:
    """Returns what ops/team.env.example sets when a person has given these values, as a shell reads it."""
    text = (ROOT / "ops" / "team.env.example").read_text()
    for name, value in values.items():
        text, found = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert found == 1, name
    command = ["sh", "-c", f"set -a; {text}\nenv -0"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True)
    variables = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    return {name: variables[name] for name in re.findall(r"^(\w+)=", text, flags=re.MULTILINE)}


def documented_servers() -> dict[str, list[str]]:
    """Returns the commands that start the two servers, from docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("## Without containers\n")[2].partition("\n## ")[0]
    commands = [line.split() for line in section.splitlines() if line.startswith("    ops/serve.sh")]
    return {command[1]: command for command in commands}


@contextmanager
def running(postgres: Server, folder: Path) -> Iterator[Team]:
    """Runs both servers, as docs/operations.md starts them without containers; they end with the block."""
    for database in ("mlflow", "prefect", "optuna"):
        postgres.url(database)
    values = {
        "TEAM_PASSWORD": secrets.token_hex(16),
        "PGPASSWORD": postgres.password,
        "POSTGRES": f"tester@127.0.0.1:{postgres.port}",
        "TEAM_FOLDER": str(folder),
        "MLFLOW_PORT": str(free_port()),
        "PREFECT_PORT": str(free_port()),
    }
    environment = filled_in(values) | {
        "AEMODELS_STORE": str(folder / "store"),
        "AEMODELS_CACHE": str(folder / "cache"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "1",
    }
    if (COLLECTIONS / "MNIST").exists():
        environment["AEMODELS_DATA"] = str(COLLECTIONS)
    servers = {
        name: Service(command, folder / f"{name}.log", environment, int(values[f"{name.upper()}_PORT"]))
        for name, command in documented_servers().items()
    }
    try:
        for server in servers.values():
            server.start()
        within(60, lambda: answers(f"{environment['MLFLOW_TRACKING_URI']}/health"), "MLflow")
        within(60, lambda: answers(f"{environment['PREFECT_API_URL']}/health"), "Prefect")
        yield Team(servers["mlflow"], servers["prefect"], folder, environment)
    finally:  # they have sessions of their own: nothing else would end them
        for server in servers.values():
            server.stop()
