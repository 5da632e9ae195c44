"""Runs a PostgreSQL server of a test's own, from Debian's packages: a throw-away cluster on a loopback port.

    with running() as server:
        server.url("optuna")  # postgresql+psycopg://..., a new database

PostgreSQL refuses to run as root, so root runs it as the user `postgres`, in a folder that this user can reach.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

ATTEMPTS = 5  # to find a port that nobody takes between looking and starting
SECONDS_TO_START = 30


@dataclass(frozen=True)
class Server:
    """A server has a superuser `tester`, whose password is `password`."""

    folder: Path
    port: int
    password: str
    binaries: Path

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """Returns the URL of a database, which is made if need be."""
        with self.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
                connection.execute(f'CREATE DATABASE "{database}"')
        return f"{driver}://tester:{self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Opens a connection that commits by itself."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="tester",
            password=self.password,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def stop(self) -> None:
        """Stops the server at once, as a power cut does; it recovers when it is started again."""
        self._control("stop", "-m", "immediate")

    def start(self) -> bool:
        """Starts the server on the same port, with the same data, and tells whether it came up."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        return self._control("start", "-t", SECONDS_TO_START, "-l", self.folder / "log", "-o", options)

    def processes(self) -> list[psutil.Process]:
        """Returns the processes of the server and of its connections."""
        top = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        return [top, *top.children(recursive=True)]

    def _control(self, *arguments: object) -> bool:
        command = [self.binaries / "pg_ctl", "-D", self.folder / "data", "-s", "-w", *arguments]
        return subprocess.run([*as_postgres(), *map(str, command)], cwd=self.folder).returncode == 0


@contextmanager
def running() -> Iterator[Server]:
    """Runs a new server; skips the test where PostgreSQL is not installed."""
    binaries = find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="aemodels-postgres-"))
    password = secrets.token_hex(12)
    try:
        (folder / "password").write_text(password)
        if os.getuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        make = [binaries / "initdb", "-D", folder / "data", "-U", "tester", "--pwfile", folder / "password"]
        make += ["--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run([*as_postgres(), *map(str, make)], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        server = _started(folder, password, binaries)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_binaries() -> Path:
    """Returns the folder of PostgreSQL's newest programs; skips the test if there is none, or no user to run them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found and (program := shutil.which("initdb")):
        found = [Path(program)]
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if os.getuid() == 0 and not (shutil.which("runuser") and _has_user("postgres")):
        pytest.skip("PostgreSQL does not run as root, and there is no user `postgres` or no runuser")
    return found[-1].parent


def as_postgres() -> list[str]:
    """Returns the words that precede a command of PostgreSQL, as root may not run it."""
    return ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []


def _has_user(name: str) -> bool:
    return subprocess.run(["id", name], capture_output=True).returncode == 0


def _started(folder: Path, password: str, binaries: Path) -> Server:
    for _ in range(ATTEMPTS):
        server = Server(folder, free_port(), password, binaries)
        if server.start():  # it ends where it cannot listen, so the port is its own
            return server
    raise RuntimeError(f"PostgreSQL does not start:\n{(folder / 'log').read_text()}")


def free_port() -> int:
    """Returns a loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
