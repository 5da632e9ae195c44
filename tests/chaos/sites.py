"""Starts runs at two kinds of sites: as commands on an embedded store, and as deployments of a team's servers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from chaos.records import EPOCHS, Records, Signs, of_file, of_postgres
from postgres import Server
from team import Team

MARK = "CHAOS_RUN"  # the environment variable by which the processes of a run are found
PATIENCE = 900.0  # seconds that a run may take to its end
AGAIN = 4  # how often a command is given before it counts as one that does not end

SETTINGS: dict[str, Any] = {
    "data": {"name": "digits"},
    # Sizes are left to the search, which keeps what a command gives and not what a deployment does.
    "model": {"name": "vae", "trunk": {"name": "mlp", "widths": [32]}},
    "training": {"epochs": EPOCHS, "images": 300, "batch_size": 16},
    "tuning": {"trials": 2, "generation": 2, "epochs": 2, "images": 200},
    "evaluation": {"level": "quick"},  # as commands that answer in JSON measure
}


@dataclass
class Run:
    """A run is work under a registered name of its own."""

    name: str
    flow: str  # pipeline or train
    environment: dict[str, str] = field(default_factory=dict)
    flow_run: str = ""  # Prefect's id of a deployment's run
    commands: list[subprocess.Popen[str]] = field(default_factory=list)  # as often as it was given

    def stage(self, signs: Signs) -> str:
        """Returns the stage that these signs tell; a training alone has no gate."""
        return "end" if self.flow == "train" and signs.stage == "gate" else signs.stage


class Site(Protocol):
    """A site is a place where runs are started, with what faults and verdicts need to know of it."""

    folder: Path
    store: Path
    artifacts: Path
    records: Records

    def start(self, run: Run) -> None:
        """Begins the run."""

    def main(self, run: Run) -> psutil.Process | None:
        """Returns the process that does the run's work; None while there is none."""

    def finish(self, run: Run) -> list[str]:
        """Waits for the run's end, and returns what was wrong with it."""

    def over(self, run: Run) -> bool:
        """Tells whether the run has come to an end."""

    def resume(self, run: Run) -> None:
        """Does what a person does for a run that has died; a worker does it by itself."""

    def stumbles(self, run: Run, seconds: float) -> None:
        """Waits while the run meets a full disk."""

    def restarts(self, run: Run) -> int:
        """Returns how often the run was begun again."""

    def command(self, run: Run, *arguments: str) -> subprocess.Popen[str]:
        """Starts a command that belongs to the run. Its output is kept in a file."""


def marked(name: str) -> list[psutil.Process]:
    """Returns all living processes of a run, oldest first."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


# ---------------------------------------------------------------- commands


class Embedded:
    """Runs commands without any server, on a store of sqlite files; a pipeline has Prefect's temporary server."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        self.folder, self.store = folder, store or folder / "store"
        self.artifacts = self.store / "artifacts"
        prefect = of_file(folder / "prefect" / "prefect.db")
        self.records = Records(of_file(self.store / "mlflow.db"), of_file(self.store / "optuna.db"), prefect)

    def environment(self, run: Run) -> dict[str, str]:
        """Returns the environment of the run's commands."""
        own = {
            "AEMODELS_STORE": str(self.store),
            "AEMODELS_CACHE": str(self.folder / "cache"),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
        }
        return {**own, **run.environment}

    def command(self, run: Run, *arguments: str) -> subprocess.Popen[str]:
        return _command(self.folder, run, self.environment(run), *arguments)

    def start(self, run: Run) -> None:
        run.commands.append(self.command(run, run.flow, "--json", *dotted(settings_of(run))))

    def main(self, run: Run) -> psutil.Process | None:
        with suppress(psutil.Error):
            return psutil.Process(run.commands[-1].pid)
        return None

    def over(self, run: Run) -> bool:
        return run.commands[-1].poll() is not None

    def finish(self, run: Run) -> list[str]:
        """Gives the command again until it ends well, as a person does."""
        while (code := run.commands[-1].wait(timeout=PATIENCE)) != 0:
            if len(run.commands) == AGAIN:
                return [f"the command ended {AGAIN} times, the last time with exit code {code}: {self.said(run)}"]
            self.start(run)
        return []

    def resume(self, run: Run) -> None:
        if until(lambda: self.over(run), 5) and run.commands[-1].returncode:
            self.start(run)

    def stumbles(self, run: Run, seconds: float) -> None:
        """Waits until the command ends; it does so with a message for a person."""
        until(lambda: self.over(run), 60 + seconds)

    def said(self, run: Run) -> str:
        """Returns the last messages of the run's commands."""
        return (self.folder / f"{run.name}.log").read_text()[-300:].strip()

    def restarts(self, run: Run) -> int:
        return len(run.commands) - 1


def _command(folder: Path, run: Run, environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Starts a command of the run. Its output is kept in a file."""
    with (folder / f"{run.name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", *arguments],
            stdout=log,
            stderr=log,
            text=True,
            env={**os.environ, **environment, MARK: run.name},
            start_new_session=True,
        )


def settings_of(run: Run) -> dict[str, Any]:
    """Returns the settings of a run, which are the same for every run but for its name."""
    return {**SETTINGS, "registry": {"name": run.name, "tolerance": 100}}  # a linear code is better


def dotted(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Returns settings as a command takes them."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value}".replace(" ", "")


# ---------------------------------------------------------------- deployments


class Deployed:
    """Runs deployments on a team's servers, which a worker starts."""

    def __init__(self, team: Team, server: Server, client: Any) -> None:
        self.team, self.server, self.client, self.alone = team, server, client, threading.Lock()
        self.folder, self.store, self.artifacts = team.folder, team.folder / "store", team.folder / "artifacts"
        self.records = Records(*(of_postgres(server, name) for name in ("mlflow", "optuna", "prefect")))
        self.deployments = {
            flow: client.read_deployment_by_name(f"{flow}/{flow}").id for flow in ("pipeline", "train", "rollback")
        }

    def start(self, run: Run) -> None:
        self.ask(run, run.flow, {"settings": settings_of(run)})

    def ask(self, run: Run, flow: str, parameters: dict[str, Any]) -> None:
        """Begins a run of a deployment."""
        variables = {"env": {**run.environment, MARK: run.name}}
        with self.alone:  # two threads that fetch the client's CSRF token at once would make one of them worthless
            made = self.client.create_flow_run_from_deployment(
                self.deployments[flow], parameters=parameters, job_variables=variables
            )
        run.flow_run = str(made.id)

    def main(self, run: Run) -> psutil.Process | None:
        """Returns the youngest of the run's engines. Others only look for hooks, or are its children."""
        for process in reversed(marked(run.name)):
            with suppress(psutil.Error):
                if "prefect.engine" in process.cmdline():
                    return process
        return None

    def state(self, run: Run) -> tuple[str, int]:
        """Returns Prefect's name of the run's state, and how often it has been running."""
        ((name, count),) = self.records.prefect(
            "SELECT state_name, run_count FROM flow_run WHERE CAST(id AS text) = ?", run.flow_run
        )
        return str(name), int(count)

    def over(self, run: Run) -> bool:
        return self.state(run)[0] in ("Completed", "Failed", "Cancelled")

    def finish(self, run: Run) -> list[str]:
        end = time.monotonic() + PATIENCE
        while not self.over(run) and time.monotonic() < end:
            time.sleep(0.5)
        name, _ = self.state(run)
        return [] if name == "Completed" else [f"the run is {name} in Prefect"]

    def resume(self, run: Run) -> None:
        """Does nothing, as the worker starts the run again."""

    def stumbles(self, run: Run, seconds: float) -> None:
        """Waits until a task is tried again."""
        time.sleep(seconds)

    def restarts(self, run: Run) -> int:
        return self.state(run)[1] - 1

    def command(self, run: Run, *arguments: str) -> subprocess.Popen[str]:
        return _command(self.folder, run, {**self.team.environment, **run.environment}, *arguments)


# ---------------------------------------------------------------- waiting


def until(reached: Callable[[], bool], seconds: float = PATIENCE, pause: float = 0.02) -> bool:
    """Waits for a condition, and tells whether it became true in that time."""
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
