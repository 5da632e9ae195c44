"""Tests that no file, output, message or record holds a secret."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from places import ROOT

from aemodels.config import UserError
from aemodels.runtime.secrets import without_secrets
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store, open_store

TINY = ["model.trunk=mlp", "model.trunk.widths=[16]", "model.latent_dim=2", "training.epochs=1", "training.images=200"]
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "tracking-Xq7secret",
    "OPTUNA_STORAGE": "postgresql://optuna:storage-Xq7secret@127.0.0.1:1/optuna",
    "PREFECT_API_AUTH_STRING": "admin:prefect-Xq7secret",
    "AWS_SECRET_ACCESS_KEY": "key-Xq7secret",
}
RECOGNISED = b"Xq7secret"


def aemodels(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command as a person starts it, with secrets in its environment and all of its files in one folder."""
    places = {f"AEMODELS_{name}": str(folder / name.lower()) for name in ("STORE", "CACHE")}
    found = os.environ | places | SECRETS | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    return subprocess.run(command, env=found, cwd=folder, capture_output=True, timeout=240, check=False)


def tells_nothing(folder: Path, *outputs: subprocess.CompletedProcess[bytes]) -> None:
    """Checks that no file, no file's name and no output holds a secret."""
    for output in outputs:
        assert RECOGNISED not in output.stdout + output.stderr, output.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if RECOGNISED in path.read_bytes() or RECOGNISED in str(path).encode()] == []


@pytest.mark.slow
def test_secrets_are_in_no_file_and_no_output(tmp_path: Path, empty_database: Path) -> None:
    (tmp_path / "store").mkdir()
    shutil.copy(empty_database, tmp_path / "store" / "mlflow.db")
    trained = aemodels("train", "--json", "-v", *TINY, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    tells_nothing(tmp_path, trained)


@pytest.mark.slow
def test_secrets_are_nothing_that_prefect_keeps(tmp_path: Path) -> None:
    """The pipeline runs as a flow on its own server, whose database is searched too."""
    small = ["tuning.trials=2", "tuning.generation=2", "tuning.epochs=1", "tuning.images=200"]
    refused = aemodels("tune", "-v", *TINY, *small, folder=tmp_path)  # nobody answers at OPTUNA_STORAGE
    assert refused.returncode == 2, refused.stderr
    alone = {"PREFECT_HOME": str(tmp_path / "prefect"), "OPTUNA_STORAGE": ""}
    done = aemodels("pipeline", "-v", *TINY, *small, folder=tmp_path, **alone)
    assert done.returncode == 0, done.stderr
    tells_nothing(tmp_path, refused)
    assert list((tmp_path / "prefect").glob("*.db"))
    tells_nothing(tmp_path, done)


@pytest.fixture
def broken_server() -> Iterator[int]:
    """Runs a server that says that it is healthy, and fails at everything else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 403)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_server_that_refuses_is_told_without_the_password(
    broken_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:Xq7secret%21@127.0.0.1:{broken_server}")
    with pytest.raises(UserError, match=f"http://127.0.0.1:{broken_server}: cannot be used") as refused:
        open_store()
    assert "Xq7secret" not in str(refused.value)
    found = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    assert found == ("me", "Xq7secret!")
    assert "Xq7secret" not in os.environ["MLFLOW_TRACKING_URI"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-v"]])
def test_a_command_that_fails_does_not_tell_the_password(
    broken_server: int, tmp_path: Path, options: list[str]
) -> None:
    address = f"http://me:address-Xq7secret@127.0.0.1:{broken_server}"
    failed = aemodels("train", *options, *TINY, folder=tmp_path, MLFLOW_TRACKING_URI=address)
    assert failed.returncode == 2
    assert b"cannot be used" in failed.stderr
    assert RECOGNISED not in failed.stdout + failed.stderr


@pytest.mark.slow
def test_the_password_of_a_server_is_in_no_file_and_no_output(tmp_path: Path, empty_database: Path) -> None:
    """MLflow's own server gets the user and the password. All of its files are searched too."""
    shutil.copy(empty_database, tmp_path / "server.db")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server)
            address = f"http://me:address-Xq7secret@127.0.0.1:{port}"
            trained = aemodels("train", "--json", "-v", *TINY, folder=tmp_path, MLFLOW_TRACKING_URI=address)
            assert trained.returncode == 0, trained.stderr
            listed = aemodels("models", folder=tmp_path, MLFLOW_TRACKING_URI=address)
            assert b"digits" in listed.stdout
            unknown = aemodels("generate", "digit@champion", folder=tmp_path, MLFLOW_TRACKING_URI=address)
            assert unknown.returncode == 2
        finally:
            server.terminate()
            server.wait(30)
    tells_nothing(tmp_path, trained, listed, unknown)


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.5)


def test_messages_lose_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    told = without_secrets(
        "API request to http://me:p@ss@host:5000/api failed: storage-Xq7secret, tracking-Xq7secret; see http://host/a@b"
    )
    assert told == "API request to http://host:5000/api failed: ***, ***; see http://host/a@b"
    for name in ("PREFECT_API_KEY", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        monkeypatch.setenv(name, f"{name}-Xq7secret")
        assert "Xq7secret" not in without_secrets(f"refused {name}-Xq7secret")
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql+psycopg://aemodels:a/b+c==@postgres/optuna")
    assert "a/b+c" not in without_secrets(f"cannot reach {os.environ['OPTUNA_STORAGE']}")
    assert without_secrets("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"


def test_a_failed_run_does_not_tell_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["MLFLOW_TRACKING_PASSWORD"])
    with pytest.raises(RuntimeError), start_run(store, "tiny", "one") as run:
        raise RuntimeError("http://me:tracking-Xq7secret@host refused tracking-Xq7secret")
    tag = store.client.get_run(run.id).data.tags["error"]
    assert tag == "RuntimeError: http://host refused ***"
