"""Runs real servers on free ports of this machine, one set for all live tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import postgres as postgres_server
import pytest
import team as team_servers
from postgres import Server
from team import Team, within


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with postgres_server.running() as server:
        yield server


@pytest.fixture(scope="session")
def team(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team_servers.running(postgres, tmp_path_factory.mktemp("team")) as team:
        yield team


@pytest.fixture
def client(team: Team, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns Prefect's client; the library uses the team's servers too."""
    for name, value in team.environment.items():
        monkeypatch.setenv(name, value)
    with team.client() as client:
        yield client


@pytest.fixture(name="within")
def _within() -> Callable[..., Any]:
    return within
