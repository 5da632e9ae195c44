"""Holds what the suite of faults shares: its rows, what undisturbed runs leave, and the two kinds of sites."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import postgres as postgres_server
import pytest
import team as team_servers
from chaos.plan import LANES, SEED
from chaos.rows import Rows
from chaos.sites import Deployed, Embedded, Run
from chaos.verdict import Undisturbed, undisturbed
from team import Service

DISK = "size=48m"


@pytest.fixture(scope="session")
def rows() -> Rows:
    """Returns the rows; CHAOS_SEED takes another plan, and CHAOS_AGAIN=1 repeats faults that have their rows."""
    return Rows(int(os.environ.get("CHAOS_SEED", SEED)))


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """Gives all commands of the suite one store."""
    return Embedded(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, embedded: Embedded) -> dict[str, Undisturbed]:
    """Returns what an undisturbed pipeline and training leave, run as commands on the embedded store."""
    site = Embedded(tmp_path_factory.mktemp("undisturbed"))
    left = {}
    for flow in ("train", "pipeline"):
        run = Run(f"undisturbed-{flow}", flow)
        site.start(run)
        left[flow] = undisturbed(site, run)
    shutil.copytree(site.folder / "cache", embedded.folder / "cache")
    return left


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployed, Service]]:
    """Runs a team's servers with deployments, and a worker."""
    several = {"limit": LANES, "collision_strategy": "ENQUEUE"}
    with (
        postgres_server.running() as server,
        team_servers.running(server, tmp_path_factory.mktemp("team")) as team,
    ):
        team.deploy(pipeline={"schedules": [], "concurrency_limit": several}, monitor={"schedules": []})
        with team.client() as client, team.worker() as worker:
            yield Deployed(team, server, client), worker


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mounts a small disk of the test's own; skips the test where it cannot be mounted."""
    with mounted(tmp_path / "disk") as folder:
        yield folder


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Mounts a disk in memory, which only root may do."""
    folder.mkdir()
    command: list[Any] = ["mount", "-t", "tmpfs", "-o", DISK, "chaos", folder]
    if os.getuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here: that takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)
