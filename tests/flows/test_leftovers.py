"""Tests that what killed commands and attempts leave behind is ended, and by whom."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from aemodels.runtime.process_names import is_gone, own_name
from flows.leftovers import MARK, end_leftovers

SLEEPS = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]


def name_of_a_dead_process() -> str:
    code = "from aemodels.runtime.process_names import own_name; print(own_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_is_gone_when_it_has_ended_or_its_number_is_anothers() -> None:
    own, dead = own_name(), name_of_a_dead_process()
    assert not is_gone(own)
    assert is_gone(dead)
    place, number, begun = own.rsplit(":", 2)
    assert is_gone(f"{place}:{number}:{int(begun) - 3600}")  # the number was somebody else's an hour ago
    assert not is_gone(f"elsewhere:{number}:1")  # of other machines nothing is known
    assert not is_gone("")


def test_the_next_command_ends_what_a_killed_one_left_and_nothing_else() -> None:
    marks = {"left": name_of_a_dead_process(), "at work": own_name(), "another program": ""}
    started = {
        which: subprocess.Popen(SLEEPS, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE)
        for which, mark in marks.items()
    }
    try:
        for process in started.values():
            assert process.stdout is not None
            process.stdout.readline()  # its environment can be read from now on
        end_leftovers()
        assert {which for which, process in started.items() if process.poll() is not None} == {"left"}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.flow
def test_a_killed_pipeline_leaves_no_server(tmp_path: Path) -> None:
    """Prefect's temporary server goes on after a SIGKILL, until the next command ends it."""
    command = [sys.executable, "-m", "flows.cli.main"]
    store = {**os.environ, "AEMODELS_STORE": str(tmp_path / "store"), "PREFECT_HOME": str(tmp_path / "prefect")}
    killed = subprocess.Popen([*command, "pipeline", "--preset", "digits"], env=store, stderr=subprocess.DEVNULL)
    servers: list[psutil.Process] = []
    while not servers:
        assert killed.poll() is None
        found = psutil.Process(killed.pid).children(recursive=True)
        with suppress(psutil.NoSuchProcess):  # a child may end in between
            servers = [child for child in found if "prefect.server" in " ".join(child.cmdline())]
    killed.kill()
    killed.wait()
    assert all(server.is_running() for server in servers)
    subprocess.run([*command, "prepare"], env=store, check=True, capture_output=True)
    assert not any(server.is_running() and server.status() != psutil.STATUS_ZOMBIE for server in servers)
