"""Shows MLflow's pages on the embedded store."""

from __future__ import annotations

import os
import socket
import sys
from typing import NoReturn

from aemodels.config import UserError
from aemodels.runtime.environment import sqlite_file, store_folder, tracking_uri
from aemodels.tracking.embedded import ensure_database, quiet
from aemodels.tracking.store import UI_PORT, printable

# MLflow's own list has patterns, such as 10.*. With it a stranger's page under the name 10.example.org, which leads to
# this machine, could do all that MLflow's own page can.
OWN_HOSTS = "localhost:*,127.0.0.1:*"


def serve_ui(port: int = UI_PORT) -> NoReturn:
    """Becomes MLflow's UI on the embedded store, for this machine only; signals reach it like any other program.

    It starts one worker of MLflow's and no job execution, which takes 0.5 GB of memory instead of 1.5.

    Raises:
        UserError: the port is taken, or the store is a server with a UI of its own.
    """
    uri = tracking_uri()
    if uri.startswith("http"):
        raise UserError(f"MLFLOW_TRACKING_URI={printable(uri)}: this server has a UI of its own; open {printable(uri)}")
    if not 0 < port < 2**16:
        raise UserError(f"--port {port}: a port is a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"--port {port}: cannot be used ({error.strerror}); give another one") from None
    quiet()
    if (file := sqlite_file(uri)) is not None:
        ensure_database(file, store_folder() / "artifacts")
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--default-artifact-root", (store_folder() / "artifacts").as_uri(), "--no-serve-artifacts"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--uvicorn-opts", "--log-level warning"]
    environment = {"PYTHONWARNINGS": "ignore", "MLFLOW_SERVER_ALLOWED_HOSTS": OWN_HOSTS, **os.environ}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    environment["MLFLOW_BACKEND_STORE_URI"] = uri  # not as an argument, which every user of the machine sees
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)
