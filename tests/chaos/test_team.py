"""Inflicts faults on runs at real servers: on their processes, the worker, each server and the disk."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from chaos.faults import disk_fault, process_fault, shared_fault
from chaos.plan import LANES, Fault
from chaos.races import race
from chaos.rows import Row, Rows
from chaos.running import run_part
from chaos.sites import Deployed
from chaos.verdict import Undisturbed
from team import Service

pytestmark = pytest.mark.chaos
Alone = dict[str, Undisturbed]
Servers = tuple[Deployed, Service]


def test_team_processes(servers: Servers, rows: Rows, alone: Alone) -> None:
    site, _ = servers
    run_part("team-processes", rows, lambda fault: process_fault(site, fault, alone), at_once=LANES)


def test_team_worker(servers: Servers, rows: Rows, alone: Alone) -> None:
    """One death leads to one restart. If a worker alone dies, its runs stay alive."""
    site, worker = servers
    deaths = {"SIGKILL of the worker and all it started": range(1, 2), "SIGSTOP of the worker": range(1)}

    def inflict(fault: Fault) -> Row:
        return shared_fault(site, fault, alone, lambda: _harm(worker, fault), deaths.get(fault.kind, range(2)))

    run_part("team-worker", rows, inflict)


def _harm(worker: Service, fault: Fault) -> None:
    assert worker.process is not None
    if fault.kind == "SIGSTOP of the worker":
        worker.process.send_signal(signal.SIGSTOP)
        time.sleep(fault.seconds)
        worker.process.send_signal(signal.SIGCONT)
        return
    if fault.kind == "SIGKILL of the worker alone":
        worker.process.kill()
        worker.process.wait()
    elif fault.kind == "SIGTERM of the worker":
        worker.stop()
    else:
        worker.kill()
    worker.start()


def test_team_servers(servers: Servers, rows: Rows, alone: Alone) -> None:
    site, _ = servers

    def inflict(fault: Fault) -> Row:
        return shared_fault(site, fault, alone, lambda: _restart(site, fault), range(2))

    run_part("team-servers", rows, inflict)


def _freeze(processes: list[psutil.Process], seconds: float) -> None:
    """Stops the processes for some seconds; they keep their connections."""
    for number, pause in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        time.sleep(pause)


def _restart(site: Deployed, fault: Fault) -> None:
    """Ends or freezes the server of the fault's kind, and starts it again when the fault's seconds are over."""
    server, _, harm = fault.kind.partition(": ")
    service = {"MLflow": site.team.mlflow, "Prefect": site.team.prefect}.get(server)
    if harm == "SIGSTOP, SIGCONT":
        _freeze(service.processes() if service else site.server.processes(), fault.seconds)
        return
    if service is None:
        site.server.stop()
        time.sleep(fault.seconds)
        assert site.server.start()
        return
    end: Callable[[], None] = service.kill if "SIGKILL" in fault.kind else service.stop
    end()
    time.sleep(fault.seconds)
    service.start()


def test_team_disk(servers: Servers, rows: Rows, alone: Alone, disk: Path) -> None:
    site, _ = servers

    def full(fault: Fault) -> Row:
        store = disk / fault.name
        store.mkdir()
        return disk_fault(site, fault, alone, store)

    run_part("team-disk", rows, full)


def test_team_races(servers: Servers, rows: Rows) -> None:
    site, _ = servers
    run_part("team-races", rows, lambda fault: race(site, fault), at_once=2)
